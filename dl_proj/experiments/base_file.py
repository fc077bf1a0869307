"""The training file that a sweep or a comparison with baselines starts from."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dl_proj.cli import CONFIGS
from dl_proj.experiments.registry import EXPERIMENT_TYPES, ExperimentType, experiment_type
from dl_proj.experiments.sweep_settings import Settings, nested
from dl_proj.settings.load import file_or_preset, merge
from dl_proj.settings.read_yaml import read_yaml


def base_file(base: Path) -> Path:
    """Return the file, or the preset of that name."""
    return file_or_preset(base, CONFIGS)


def base_task(base: Path, common: Settings) -> str:
    """Return the task that the file or ``common`` names, or else the only one that their settings are valid for.

    Raises:
        ConfigError: there is no such task, or none is named and it is ambiguous.
    """
    settings = merge(read_yaml(base_file(base)), nested(common))
    if "task" not in settings:
        fitting = [name for name, one in EXPERIMENT_TYPES.items() if _fits(one, settings)]
        if len(fitting) == 1:
            return fitting[0]
    task = settings.get("task")
    experiment_type(task, base, hint="; it can be set in common")
    return str(task)


def _fits(one: ExperimentType[Any], settings: Settings) -> bool:
    try:
        one.schema.model_validate(settings)
    except ValidationError:
        return False
    return True
