"""Train a language model: python lm_train.py --config dl_proj/configs/lm_books.yaml."""

from dl_proj.commands import run_script

if __name__ == "__main__":
    run_script("lm_train")
