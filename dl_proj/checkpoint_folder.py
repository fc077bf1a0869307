"""Find and read a trained model: a shipped checkpoint by its name, or a run's folder."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from dl_proj.settings.base import expanded
from dl_proj.settings.errors import ConfigError, shown
from dl_proj.settings.help import Nested
from dl_proj.settings.load import load_config
from dl_proj.settings.read_yaml import read_yaml
from my_custom_ai.custom_train.errors import CheckpointError

Config = TypeVar("Config", bound=BaseModel)

SHIPPED = Path(__file__).parent / "checkpoints"
CLASSES = "classes.json"  # beside the weights of a model of classes: their names, in the model's order
TOKENIZER = "tokenizer.json"  # beside the weights of a model of text, if its tokenizer was trained


def find_checkpoint(name: str) -> Path:
    """The folder with model.safetensors and config.yaml that ``name`` means.

    Args:
        name: of a shipped checkpoint, or the path of such a folder or of a run.

    Raises:
        CheckpointError: there is none; the message says which ship.
    """
    path = expanded(name)
    for folder in (SHIPPED / name, path, path / "checkpoints" / "best"):
        if _has_weights(folder):
            return folder
    shipped = sorted(path.parent.name for path in SHIPPED.glob("*/model.safetensors"))
    raise CheckpointError(
        f"{name!r} is neither a folder with model.safetensors, nor a run, nor one of the shipped checkpoints: "
        f"{', '.join(shipped) or 'none'}"
    )


def _has_weights(folder: Path) -> bool:
    try:
        return (folder / "model.safetensors").is_file()
    except OSError:  # a name that is longer than any file's can be
        return False


def find_checkpoints(name: str) -> dict[str, Path]:
    """The one folder that ``name`` means, or all that lie below it: their names and paths.

    Raises:
        CheckpointError: there is none.
    """
    above = expanded(name)
    try:
        return {str(above) if name.startswith("~") else name: find_checkpoint(name)}
    except CheckpointError:
        below = [weights.parent for weights in sorted(above.rglob("model.safetensors"))]
        if not below:
            raise
    runs = {folder: folder.parents[1] if folder.parts[-2:] == ("checkpoints", "best") else folder for folder in below}
    return {
        str((run if run.is_relative_to(above) else folder).relative_to(above)): folder for folder, run in runs.items()
    }


def config_path(folder: Path) -> Path:
    """Where a checkpoint's configuration stands; that of a run that has not ended is the run's own."""
    path = folder / "config.yaml"
    return folder.parent.parent / "config.yaml" if not path.is_file() and folder.name == "best" else path


def read_config(schema: type[Config], folder: Path, data: Nested | None = None) -> Config:
    """The configuration that a checkpoint was trained with, and over it settings of its data that a user gave anew.

    Raises:
        ConfigError: it is missing, or is not one of ``schema``; of another task, that alone is said.
    """
    path = config_path(folder)
    check_task(schema, path)
    return load_config(schema, path, {"data": data} if data else None)


def check_task(schema: type[BaseModel], path: Path) -> None:
    """Make sure that a configuration is one of ``schema``'s task.

    Raises:
        ConfigError: it is not, or is missing.
    """
    task = schema.model_fields.get("task")
    if task and (given := read_yaml(path).get("task", task.default)) != task.default:
        raise ConfigError(f"{path}: task: must be {task.default!r} (got {shown(given)})")
