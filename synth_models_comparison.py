"""Compare copy models across hash rounds: python synth_models_comparison.py."""

from dl_proj.cli import config_from, run_script
from dl_proj.experiments.copy.compare import compare
from dl_proj.experiments.copy.settings import SynthComparisonConfig


def main(argv: list[str]) -> None:
    """Parse, compare."""
    compare(config_from(SynthComparisonConfig, argv, preset="synth_comparison.yaml"))


if __name__ == "__main__":
    run_script(main)
