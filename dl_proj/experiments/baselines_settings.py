"""Schema of baselines.py."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from dl_proj.experiments.sweep_settings import Settings
from dl_proj.settings.base import Strict


class BaselinesConfig(Strict):
    """Measure what any model of an experiment must beat, on the same data.

    For images a linear model and a small convolutional network, trained as the experiment trains; for language
    compressors and n-grams; for translation the nearest training sentence, and published figures.
    """

    base: Path
    """a training's YAML file, whose data it is, or the name of one in dl_proj/configs; --config takes it, too"""
    common: Settings = {}
    """settings of the training at dotted keys, as in data.path=my_texts"""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field((1, 2, 3), min_length=1)
    """images: train each baseline with each of these"""
    max_order: int = Field(6, ge=1, le=8)
    """language: bytes of the longest n-gram"""
    output_dir: Path
    """folder of the tables; if nothing says it, runs/baselines_ and the base's name"""

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_base(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("base"), str | Path):
            return {"output_dir": f"runs/baselines_{Path(values['base']).stem}"} | values
        return values

    @classmethod
    def beside_flags(cls, values: Settings, flags: Settings, path: Path) -> Settings:
        """See Strict. A training's file is a base."""
        return {"base": str(path)} if "base" not in values and "train" in values else values
