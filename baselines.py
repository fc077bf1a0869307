"""Measure what any model of an experiment must beat: python baselines.py --config dl_proj/configs/lm_books.yaml."""

from dl_proj.commands import run_script

if __name__ == "__main__":
    run_script("baselines")
