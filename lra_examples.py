"""Show examples of the Long Range Arena: python lra_examples.py --config dl_proj/configs/lra_pathfinder32.yaml."""

from dl_proj.commands import run_script

if __name__ == "__main__":
    run_script("lra_examples")
