"""Train variants of a configuration and compare them: python sweep.py --config dl_proj/configs/sweep_lm_books.yaml."""

from dl_proj.commands import run_script

if __name__ == "__main__":
    run_script("sweep")
