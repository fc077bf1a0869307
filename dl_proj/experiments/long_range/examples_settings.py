"""Schema of lra_examples.py."""

from pathlib import Path
from typing import Any

from pydantic import Field

from dl_proj.experiments.long_range.data_settings import LongRangeDataConfig
from dl_proj.settings.base import Strict


class ExamplesConfig(Strict):
    """Show the first test examples of a task, pictures on a page, others as text, and the fraction of each class."""

    data: LongRangeDataConfig
    """the task, chosen by kind"""
    number: int = Field(24, ge=2, le=2000)
    """number of examples"""
    output: Path = Path("runs/lra_examples.png")
    """file for the page, if the examples are pictures"""

    @classmethod
    def beside_flags(cls, values: dict[str, Any], flags: dict[str, Any], path: Path) -> dict[str, Any]:
        """See Strict; a training file given as --config provides its data."""
        return {"data": values["data"]} if {"data", "train"} <= values.keys() else values

    def mistakes(self) -> list[str]:
        """See Strict."""
        if self.output.suffix.lower() not in (".png", ".pdf"):
            return [f"output {self.output} must end in .png or .pdf"]
        return []
