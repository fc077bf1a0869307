"""Train a model on the copy task: python synth_train.py --config dl_proj/configs/synth_train.yaml."""

from dl_proj.commands import run_script

if __name__ == "__main__":
    run_script("synth_train")
