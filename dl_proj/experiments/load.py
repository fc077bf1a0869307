"""Load a trained model of any task from its checkpoint."""

from pathlib import Path
from typing import Any

from dl_proj.checkpoint_folder import config_path, find_checkpoint
from dl_proj.experiments.registry import experiment_type
from dl_proj.experiments.trained import Trained
from dl_proj.settings.help import Nested
from dl_proj.settings.read_yaml import read_yaml
from my_custom_ai.custom_train.names import DeviceName


def load(checkpoint: str | Path, *, device: DeviceName = "auto", data: Nested | None = None) -> Trained[Any, Any]:
    """See :func:`dl_proj.load`."""
    folder = find_checkpoint(str(checkpoint))
    path = config_path(folder)
    kind = experiment_type(read_yaml(path).get("task"), path)
    return kind.load(folder, device=device, data=data)
