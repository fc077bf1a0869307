"""Measure trained models on their test data: python evaluate.py --checkpoint mnist-cls-full."""

from dl_proj.commands import run_script

if __name__ == "__main__":
    run_script("evaluate")
