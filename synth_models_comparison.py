"""Compare copy models across hash rounds: python synth_models_comparison.py."""

from dl_proj.commands import run_script

if __name__ == "__main__":
    run_script("synth_models_comparison")
