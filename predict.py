"""Classify pictures with a trained classifier: python predict.py --checkpoint mnist-cls-lsh-r4 picture.png."""

from dl_proj.commands import run_script

if __name__ == "__main__":
    run_script("predict")
