"""Measure trained models on their test data: python evaluate.py --checkpoint mnist-cls-full."""

from dl_proj.cli import config_from, run_script
from dl_proj.experiments.evaluate import evaluate_checkpoints
from dl_proj.experiments.evaluate_settings import EvaluateConfig


def main(argv: list[str]) -> None:
    """Parse, measure."""
    evaluate_checkpoints(config_from(EvaluateConfig, argv, preset="evaluate.yaml"))


if __name__ == "__main__":
    run_script(main)
