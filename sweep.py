"""Train variants of a configuration and compare them: python sweep.py --config dl_proj/configs/sweep_lm_books.yaml."""

from dl_proj.cli import config_from, run_script
from dl_proj.experiments.sweep import sweep
from dl_proj.experiments.sweep_settings import SweepConfig


def main(argv: list[str]) -> None:
    """Parse, train, compare."""
    sweep(config_from(SweepConfig, argv, preset="sweep_lm_books.yaml"))


if __name__ == "__main__":
    run_script(main)
