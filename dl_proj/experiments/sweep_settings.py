"""Schema of sweep.py."""

import itertools
import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from dl_proj.experiments.sweep_executors import RaySettings, SlurmSettings
from dl_proj.settings.base import Strict
from dl_proj.settings.load import merge

Settings = dict[str, Any]
"""Values by dotted key of a training's configuration."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # becomes a folder's name
_MOST = 10_000  # trainings in a sweep
_OWN = ("experiment_name", "runs_dir")  # set by the sweep itself


class Trial(NamedTuple):
    """One training of a sweep: a variant, with one of the seeds if the sweep has several."""

    run_name: str  # name of its folder in output_dir
    variant: str
    changes: Settings  # the variant's settings
    seed: int | None  # None: the seed of the base


class SweepConfig(Strict):
    """Train variants of one configuration and compare them."""

    base: Path
    """training file (YAML), or the name of a preset; passed as a flag with --variants or --values, it replaces the
    sweep's file as a whole"""
    variants: dict[str, Settings] = {}
    """for each variant, its name and its settings by dotted key; alternative to values"""
    values: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    """values to try per dotted key, in all combinations, as in model.depth=[1,2]; alternative to variants"""
    common: Settings = {}
    """settings of all variants by dotted key, as in train.max_steps=100"""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = ()
    """train each variant once per seed, for means and standard deviations; empty: once, with the base's seed"""
    executor: Literal["local", "slurm", "ray"] = "local"
    """where to train: on this machine, as jobs of SLURM, or as tasks of Ray"""
    jobs: int = Field(1, ge=1)
    """local: parallel trainings, each in its own process, logging to OUTPUT_DIR/RUN/log.txt; CUDA devices are divided
    among them"""
    slurm: SlurmSettings = SlurmSettings()
    ray: RaySettings = RaySettings()
    retry: bool = False
    """also continue trainings that failed in an earlier call; otherwise they are only listed"""
    only: tuple[str, ...] = ()
    """variants or runs (NAME-seed1) to train now, leaving the others to a later or parallel call; empty: all"""
    metric: str | None = None
    """validation metric to draw; null: the one that the base monitors"""
    output_dir: Path
    """folder for runs, tables and pictures; by default runs/sweep_NAME, with the name of the base"""

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_base(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("base"), str | Path):
            return {"output_dir": f"runs/sweep_{Path(values['base']).stem}"} | values
        return values

    @classmethod
    def beside_flags(cls, values: Settings, flags: Settings, path: Path) -> Settings:
        """See Strict. A training file given as --config becomes the base; variants from flags replace the file's."""
        if "base" not in values and "train" in values:
            return {"base": str(path)}
        given = {"variants", "values"} & flags.keys()
        if given and "base" in flags:
            return {}
        return {key: value for key, value in values.items() if not given or key not in ("variants", "values")}

    @property
    def all_variants(self) -> dict[str, Settings]:
        """The settings of each variant, by its name."""
        if self.variants:
            return self.variants
        combinations = itertools.product(*([(key, value) for value in some] for key, some in self.values.items()))
        return {"_".join(_title(key, value) for key, value in some): dict(some) for some in combinations}

    @property
    def trials(self) -> list[Trial]:
        """All trainings; every variant comes once before any is repeated with another seed."""
        variants = self.all_variants.items()
        if not self.seeds:
            return [Trial(name, name, changes, None) for name, changes in variants]
        return [Trial(f"{name}-seed{seed}", name, changes, seed) for seed in self.seeds for name, changes in variants]

    def mistakes(self) -> list[str]:
        """See Strict."""
        if bool(self.variants) == bool(self.values):
            return ["needs either variants or values, as in --values model.depth=[1,2]"]
        if (trainings := self._count()) > _MOST:
            return [f"variants, values and seeds result in {trainings} trainings, must be at most {_MOST}"]
        found = [
            f"variants: the name {name!r} must be letters, digits, '.', '_' and '-', first a letter or digit"
            for name in self.all_variants
            if not _NAME.fullmatch(name)
        ]
        if self.values and len(self.all_variants) < math.prod(map(len, self.values.values())):
            found.append("values: two combinations have the same name; use variants and choose the names")
        found += [
            f"{place}: {key} is set by the sweep itself" for place, key in self._keys() if key.split(".")[0] in _OWN
        ]
        if self.jobs > 1 and self.executor != "local":
            limit = "slurm.parallel" if self.executor == "slurm" else "ray.cpus and ray.gpus"
            found.append(f"jobs: {self.jobs} is for executor local; with {self.executor}, set {limit}")
        return found + self._mistakes_in_seeds() + self._mistakes_in_only()

    def _count(self) -> int:
        """Return the number of trainings, without listing them."""
        variants = len(self.variants) or math.prod(map(len, self.values.values()))
        return variants * max(1, len(self.seeds))

    def _mistakes_in_seeds(self) -> list[str]:
        if not self.seeds:
            return []
        found = [
            f"{place}: seed conflicts with seeds {list(self.seeds)}: set one"
            for place, key in self._keys()
            if key == "seed"
        ]
        if len({*self.seeds}) < len(self.seeds):
            found.append(f"seeds {list(self.seeds)} must be different")
        return found

    def _mistakes_in_only(self) -> list[str]:
        known = dict.fromkeys([*self.all_variants, *(trial.run_name for trial in self.trials)])
        return [
            f"only: no such variant or run: {name!r}; must be one of {', '.join(known)}"
            for name in self.only
            if name not in known
        ]

    def _keys(self) -> list[tuple[str, str]]:
        """Return every dotted key with the setting that contains it."""
        found = [("common", key) for key in self.common] + [("values", key) for key in self.values]
        return found + [(f"variants.{name}", key) for name, some in self.variants.items() for key in some]


def nested(settings: Settings) -> Settings:
    """Turn values by dotted key into nested mappings, as in a file."""
    found: Settings = {}
    for dotted, value in settings.items():
        for key in reversed(dotted.split(".")):
            value = {key: value}
        found = merge(found, value)
    return found


def flat(settings: Settings) -> Settings:
    """Turn nested mappings into values by dotted key."""
    found: Settings = {}
    for key, value in settings.items():
        found |= flat({f"{key}.{k}": v for k, v in value.items()}) if isinstance(value, dict) else {key: value}
    return found


def _title(key: str, value: Any) -> str:
    """Return a name such as ``n_rounds-4``, for model.attention.n_rounds and 4."""
    text = value if isinstance(value, str) else json.dumps(value)
    return f"{key.rpartition('.')[2]}-{'-'.join(re.findall(r'[A-Za-z0-9.]+', text))}"
