"""Measure the mechanisms: python performance_studies.py."""

from dl_proj.cli import config_from, run_script
from dl_proj.studies.run import make_studies
from dl_proj.studies.settings import PerformanceConfig


def main(argv: list[str]) -> None:
    """Parse, measure."""
    make_studies(config_from(PerformanceConfig, argv, preset="perf_study.yaml"))


if __name__ == "__main__":
    run_script(main)
