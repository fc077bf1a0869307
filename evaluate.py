"""Measure trained models on their test data: python evaluate.py --checkpoint mnist-cls-full."""

from dl_proj.cli import config_from, run_script
from dl_proj.configs.evaluation import EvaluateConfig
from dl_proj.evaluation import evaluate_checkpoints


def main(argv: list[str]) -> None:
    """Parse, measure."""
    evaluate_checkpoints(config_from(EvaluateConfig, argv, preset="evaluate.yaml"))


if __name__ == "__main__":
    run_script(main)
