"""Train on a task of the Long Range Arena: python lra_train.py --config dl_proj/configs/lra_listops.yaml."""

from dl_proj.commands import run_script

if __name__ == "__main__":
    run_script("lra_train")
