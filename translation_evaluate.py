"""Score a translation model on its test set: python translation_evaluate.py --checkpoint translation-multi30k."""

from dl_proj.commands import run_script

if __name__ == "__main__":
    run_script("translation_evaluate")
