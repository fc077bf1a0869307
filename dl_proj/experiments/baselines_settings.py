"""Schema of baselines.py."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from dl_proj.experiments.sweep_settings import Settings
from dl_proj.settings.base import Strict


class BaselinesConfig(Strict):
    """Measure baselines that any model of an experiment must beat, on the same data.

    Images: a linear model and a small convolutional network, trained like the experiment. Language: compressors and
    n-grams. Translation: the nearest training sentence, and published figures.
    """

    base: Path
    """training file (YAML) whose data to use, or the name of a preset; can also be passed as --config"""
    common: Settings = {}
    """settings of the training by dotted key, as in data.path=my_texts"""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field((1, 2, 3), min_length=1)
    """images: train each baseline once per seed"""
    max_order: int = Field(6, ge=1, le=8)
    """language: length of the longest n-gram, in bytes"""
    output_dir: Path
    """folder for the tables; by default runs/baselines_NAME, with the name of the base"""

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_base(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("base"), str | Path):
            return {"output_dir": f"runs/baselines_{Path(values['base']).stem}"} | values
        return values

    @classmethod
    def beside_flags(cls, values: Settings, flags: Settings, path: Path) -> Settings:
        """See Strict. A training file given as --config becomes the base."""
        return {"base": str(path)} if "base" not in values and "train" in values else values
