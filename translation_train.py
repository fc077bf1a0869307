"""Train a translation model: python translation_train.py --config dl_proj/configs/translation_multi30k.yaml."""

from dl_proj.commands import run_script

if __name__ == "__main__":
    run_script("translation_train")
