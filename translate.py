"""Translate sentences from the command line or standard input: python translate.py "Two dogs play in the snow."."""

from dl_proj.commands import run_script

if __name__ == "__main__":
    run_script("translate")
