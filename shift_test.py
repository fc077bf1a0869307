"""Measure classifiers on horizontally shifted images: python shift_test.py."""

from dl_proj.commands import run_script

if __name__ == "__main__":
    run_script("shift_test")
