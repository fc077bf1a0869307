"""Train a generator of small images: python generation_train.py --config dl_proj/configs/gen_train.yaml."""

from dl_proj.commands import run_script

if __name__ == "__main__":
    run_script("generation_train")
