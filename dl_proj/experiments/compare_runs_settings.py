"""Schema of compare_runs.py."""

from pathlib import Path

from dl_proj.settings.base import Strict


class CompareRunsConfig(Strict):
    """Compare runs on one HTML page: those whose folders, or folders above them, are named, or else all in runs/."""

    output: Path = Path("runs/comparison.html")
    """the page; it needs no other file, but its links lead to the runs' pictures"""
