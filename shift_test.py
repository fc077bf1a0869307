"""How classifiers stand images that move sideways: python shift_test.py."""

from dl_proj.commands import run_script

if __name__ == "__main__":
    run_script("shift_test")
