"""How classifiers stand images that move sideways: python shift_test.py."""

from dl_proj.cli import config_from, run_script
from dl_proj.experiments.images.classification.shift import measure_shifts
from dl_proj.experiments.images.classification.shift_settings import ShiftConfig


def main(argv: list[str]) -> None:
    """Parse, measure."""
    measure_shifts(config_from(ShiftConfig, argv, preset="shift_test.yaml"))


if __name__ == "__main__":
    run_script(main)
