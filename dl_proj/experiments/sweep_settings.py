"""Schema of sweep.py."""

import itertools
import json
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from dl_proj.settings.base import Strict
from dl_proj.settings.load import merge

Settings = dict[str, Any]
"""Values at dotted keys of a training's configuration."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # of a folder, as an experiment's
_OWN = ("experiment_name", "runs_dir")  # a sweep gives its runs names and a folder itself


class SweepConfig(Strict):
    """Train variants of one configuration and compare them."""

    base: Path
    """a training's YAML file, or the name of one in dl_proj/configs; its task (there, or in common) says which training
    it is"""
    variants: dict[str, Settings] = {}
    """settings that differ, at dotted keys, by the name of the variant; give this or values"""
    values: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    """values to try at dotted keys, all combinations of them; give this or variants"""
    common: Settings = {}
    """settings at dotted keys for all variants"""
    only: tuple[str, ...] = ()
    """names of the variants to train now, the others later or by another process; none: all"""
    metric: str = "val/loss"
    """metric of the validation data that is drawn against the step"""
    output_dir: Path
    """folder of all runs, of sweep.csv and of sweep.png"""

    @property
    def all_variants(self) -> dict[str, Settings]:
        """What each variant changes, by its name."""
        if self.variants:
            return self.variants
        combinations = itertools.product(*([(key, value) for value in some] for key, some in self.values.items()))
        return {"_".join(_title(key, value) for key, value in some): dict(some) for some in combinations}

    def mistakes(self) -> list[str]:
        """See Strict."""
        if bool(self.variants) == bool(self.values):
            return ["needs variants or values, one of them"]
        found = [
            f"variants: the name {name!r} must begin with a letter or digit, then letters, digits, '.', '_' and '-'"
            for name in self.all_variants
            if not _NAME.fullmatch(name)
        ]
        n_combinations = 1
        for some in self.values.values():
            n_combinations *= len(some)
        if self.values and len(self.all_variants) < n_combinations:
            found.append("values: two combinations have one name; use variants and name them yourself")
        found += [
            f"{place}: {key} is the sweep's own to give" for place, key in self._keys() if key.split(".")[0] in _OWN
        ]
        known = ", ".join(self.all_variants)
        return found + [
            f"only: there is no variant {n!r}, only {known}" for n in self.only if n not in self.all_variants
        ]

    def _keys(self) -> list[tuple[str, str]]:
        """Every dotted key, and where it stands."""
        found = [("common", key) for key in self.common] + [("values", key) for key in self.values]
        return found + [(f"variants.{name}", key) for name, some in self.variants.items() for key in some]


def nested(settings: Settings) -> Settings:
    """Values at dotted keys as the mappings that a file has."""
    found: Settings = {}
    for dotted, value in settings.items():
        for key in reversed(dotted.split(".")):
            value = {key: value}
        found = merge(found, value)
    return found


def _title(key: str, value: Any) -> str:
    """``n_rounds-4`` for model.attention.n_rounds and 4."""
    text = value if isinstance(value, str) else json.dumps(value)
    return f"{key.rpartition('.')[2]}-{'-'.join(re.findall(r'[A-Za-z0-9.]+', text))}"
