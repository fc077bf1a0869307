"""Write a trained model as a graph for other programs: python export.py --checkpoint mnist-cls-lsh-r4."""

from dl_proj.commands import run_script

if __name__ == "__main__":
    run_script("export")
