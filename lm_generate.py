"""Continue a text with a trained language model: python lm_generate.py --length 200 --temperature 0.8."""

from dl_proj.commands import run_script

if __name__ == "__main__":
    run_script("lm_generate")
