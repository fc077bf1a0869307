"""Schema of lra_examples.py."""

from pathlib import Path
from typing import Any

from pydantic import Field

from dl_proj.experiments.long_range.data_settings import LongRangeDataConfig
from dl_proj.settings.base import Strict


class ExamplesConfig(Strict):
    """Show the first test examples of a task, pictures on a page, others as text, and the classes' shares."""

    data: LongRangeDataConfig
    """the task, chosen by kind"""
    number: int = Field(24, ge=2, le=2000)
    """examples"""
    output: Path = Path("runs/lra_examples.png")
    """the page, if they are pictures"""

    @classmethod
    def beside_flags(cls, values: dict[str, Any], flags: dict[str, Any], path: Path) -> dict[str, Any]:
        """See Strict; of a training's file the data is taken."""
        return {"data": values["data"]} if {"data", "train"} <= values.keys() else values

    def mistakes(self) -> list[str]:
        """See Strict."""
        if self.output.suffix.lower() not in (".png", ".pdf"):
            return [f"output {self.output} must end in .png or .pdf"]
        return []
