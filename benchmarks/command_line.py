"""What the benchmarks' command lines share: where results go."""

import argparse
from pathlib import Path

from dl_proj.settings.base import expanded

COMMITTED = Path(__file__).parent / "results"


def parser(doc: str) -> argparse.ArgumentParser:
    """With the description ``doc`` and the options of :func:`result_file`."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = made.add_mutually_exclusive_group()
    where.add_argument(
        "--output_dir", type=expanded, default=Path("runs/benchmarks"), help="for the JSON; default: runs/benchmarks"
    )
    where.add_argument(
        "--commit_results", action="store_true", help="write to benchmarks/results/ instead, over the committed JSON"
    )
    return made


def result_file(arguments: argparse.Namespace, name: str) -> Path:
    """The path of a file of results: a committed one only if ``--commit_results`` asked for it."""
    return (COMMITTED if arguments.commit_results else arguments.output_dir) / name
