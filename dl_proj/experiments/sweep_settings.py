"""Schema of sweep.py."""

import itertools
import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, model_validator

from dl_proj.settings.base import Strict
from dl_proj.settings.load import merge

Settings = dict[str, Any]
"""Values at dotted keys of a training's configuration."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # of a folder, as an experiment's
_MOST = 10_000  # trainings of a sweep
_OWN = ("experiment_name", "runs_dir")  # a sweep gives its runs names and a folder itself


class Trial(NamedTuple):
    """One training of a sweep: a variant, with one of the seeds if the sweep has several."""

    run_name: str  # of its folder below output_dir
    variant: str
    changes: Settings  # the settings by which the variant differs
    seed: int | None  # None: the base's


class SweepConfig(Strict):
    """Train variants of one configuration and compare them."""

    base: Path
    """a training's YAML file, or the name of one in dl_proj/configs; given as a flag with --variants or --values, the
    rest of the sweep's file is not used"""
    variants: dict[str, Settings] = {}
    """settings that differ, at dotted keys, by the name of the variant; give this or values"""
    values: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    """values to try at dotted keys, all combinations of them, as in model.depth=[1,2]; give this or variants"""
    common: Settings = {}
    """settings at dotted keys for all variants, as in train.max_steps=100"""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = ()
    """train each variant with each of these, for means and standard deviations; none: once, with the base's seed"""
    jobs: int = Field(1, ge=1)
    """trainings at a time, each in its own process with its output in OUTPUT_DIR/RUN/log.txt; several CUDA devices are
    shared out among them"""
    only: tuple[str, ...] = ()
    """names of variants or runs (NAME-seed1) to train now, the others later or by another process; none: all"""
    metric: str | None = None
    """metric of the validation data that is drawn; null: the one that the base chooses its best weights by"""
    output_dir: Path
    """folder of all runs, tables and pictures; if nothing says it, runs/sweep_ and the base's name"""

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_base(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("base"), str | Path):
            return {"output_dir": f"runs/sweep_{Path(values['base']).stem}"} | values
        return values

    @classmethod
    def beside_flags(cls, values: Settings, flags: Settings, path: Path) -> Settings:
        """See Strict. A training's file is a base; other variants replace the file's, whichever way they are given."""
        if "base" not in values and "train" in values:
            return {"base": str(path)}
        given = {"variants", "values"} & flags.keys()
        if given and "base" in flags:
            return {}
        return {key: value for key, value in values.items() if not given or key not in ("variants", "values")}

    @property
    def all_variants(self) -> dict[str, Settings]:
        """What each variant changes, by its name."""
        if self.variants:
            return self.variants
        combinations = itertools.product(*([(key, value) for value in some] for key, some in self.values.items()))
        return {"_".join(_title(key, value) for key, value in some): dict(some) for some in combinations}

    @property
    def trials(self) -> list[Trial]:
        """All trainings; every variant once before any is repeated with another seed."""
        variants = self.all_variants.items()
        if not self.seeds:
            return [Trial(name, name, changes, None) for name, changes in variants]
        return [Trial(f"{name}-seed{seed}", name, changes, seed) for seed in self.seeds for name, changes in variants]

    def mistakes(self) -> list[str]:
        """See Strict."""
        if bool(self.variants) == bool(self.values):
            return ["needs variants or values, one of them, as in --values model.depth=[1,2]"]
        if (trainings := self._count()) > _MOST:
            return [f"variants, values and seeds make {trainings} trainings, must be at most {_MOST}"]
        found = [
            f"variants: the name {name!r} must begin with a letter or digit, then letters, digits, '.', '_' and '-'"
            for name in self.all_variants
            if not _NAME.fullmatch(name)
        ]
        if self.values and len(self.all_variants) < math.prod(map(len, self.values.values())):
            found.append("values: two combinations have one name; use variants and name them yourself")
        found += [
            f"{place}: {key} is the sweep's own to give" for place, key in self._keys() if key.split(".")[0] in _OWN
        ]
        return found + self._mistakes_in_seeds() + self._mistakes_in_only()

    def _count(self) -> int:
        """Of trainings, without making a list of them."""
        variants = len(self.variants) or math.prod(map(len, self.values.values()))
        return variants * max(1, len(self.seeds))

    def _mistakes_in_seeds(self) -> list[str]:
        if not self.seeds:
            return []
        found = [
            f"{place}: seed and seeds {list(self.seeds)}: give one" for place, key in self._keys() if key == "seed"
        ]
        if len({*self.seeds}) < len(self.seeds):
            found.append(f"seeds {list(self.seeds)} must be different")
        return found

    def _mistakes_in_only(self) -> list[str]:
        known = dict.fromkeys([*self.all_variants, *(trial.run_name for trial in self.trials)])
        return [f"only: there is no variant {n!r}, only {', '.join(known)}" for n in self.only if n not in known]

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


def flat(settings: Settings) -> Settings:
    """The way back: single values at dotted keys."""
    found: Settings = {}
    for key, value in settings.items():
        found |= flat({f"{key}.{k}": v for k, v in value.items()}) if isinstance(value, dict) else {key: value}
    return found


def _title(key: str, value: Any) -> str:
    """``n_rounds-4`` for model.attention.n_rounds and 4."""
    text = value if isinstance(value, str) else json.dumps(value)
    return f"{key.rpartition('.')[2]}-{'-'.join(re.findall(r'[A-Za-z0-9.]+', text))}"
