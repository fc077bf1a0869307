"""Find a trained model, by the name of a shipped checkpoint or by a folder, and read its configuration."""

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
CLASSES = "classes.json"  # beside a classifier's or generator's weights: class names, in the model's order
TOKENIZER = "tokenizer.json"  # beside a text model's weights, if its tokenizer was trained


def find_checkpoint(name: str) -> Path:
    """Return the folder with model.safetensors that ``name`` refers to.

    Args:
        name: the name of a shipped checkpoint, or the path of a checkpoint folder or of a run.

    Raises:
        CheckpointError: there is none; the message lists the shipped ones.
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
    except OSError:  # a name longer than the file system allows
        return False


def find_checkpoints(name: str) -> dict[str, Path]:
    """Return the checkpoint that ``name`` refers to, or else all checkpoints below that folder: names and paths.

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
    """Return the path of a checkpoint's configuration; in an unfinished run, that is the run's own file."""
    path = folder / "config.yaml"
    return folder.parent.parent / "config.yaml" if not path.is_file() and folder.name == "best" else path


def read_config(schema: type[Config], folder: Path, data: Nested | None = None) -> Config:
    """Read a checkpoint's training configuration, with ``data`` overriding its data settings.

    Raises:
        ConfigError: it is missing or does not fit ``schema``. If its task differs, only that is reported.
    """
    path = config_path(folder)
    check_task(schema, path)
    return load_config(schema, path, {"data": data} if data else None)


def check_task(schema: type[BaseModel], path: Path) -> None:
    """Check that a configuration is for the task of ``schema``.

    Raises:
        ConfigError: it is for another task, or is missing.
    """
    task = schema.model_fields.get("task")
    if task and (given := read_yaml(path).get("task", task.default)) != task.default:
        raise ConfigError(f"{path}: task: must be {task.default!r} (got {shown(given)})")
