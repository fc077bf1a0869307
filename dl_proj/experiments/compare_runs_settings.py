"""Schema of compare_runs.py."""

from pathlib import Path

from dl_proj.settings.base import Strict


class CompareRunsConfig(Strict):
    """Compare runs on an HTML page: those in or below the given folders, by default all in runs/."""

    output: Path = Path("runs/comparison.html")
    """the page; self-contained except for links to the runs' pictures"""
