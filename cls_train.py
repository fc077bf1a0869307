"""Train an image classifier: python cls_train.py --config dl_proj/configs/cls_train.yaml."""

from dl_proj.commands import run_script

if __name__ == "__main__":
    run_script("cls_train")
