"""Shared command-line options of the benchmarks: where to write results."""

import argparse
from pathlib import Path

from dl_proj.settings.base import expanded

COMMITTED = Path(__file__).parent / "results"


def parser(doc: str) -> argparse.ArgumentParser:
    """A parser with the description ``doc`` and the options that :func:`result_file` reads."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = made.add_mutually_exclusive_group()
    where.add_argument(
        "--output_dir",
        type=expanded,
        default=Path("runs/benchmarks"),
        help="folder for the JSON; default: runs/benchmarks",
    )
    where.add_argument(
        "--commit_results", action="store_true", help="overwrite the committed JSON in benchmarks/results/ instead"
    )
    return made


def result_file(arguments: argparse.Namespace, name: str) -> Path:
    """Path of a results file: the committed one only with ``--commit_results``."""
    return (COMMITTED if arguments.commit_results else arguments.output_dir) / name
