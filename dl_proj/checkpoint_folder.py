"""Find and read a trained model: a shipped checkpoint by its name, or a run's folder."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from dl_proj.configs.load import load_config
from my_custom_ai.custom_train import CheckpointError

Config = TypeVar("Config", bound=BaseModel)

SHIPPED = Path(__file__).parent / "checkpoints"


def find_checkpoint(name: str) -> Path:
    """The folder with model.safetensors and config.yaml that ``name`` means.

    Args:
        name: of a shipped checkpoint, or the path of such a folder or of a run.

    Raises:
        CheckpointError: there is none; the message says which ship.
    """
    for folder in (SHIPPED / name, Path(name), Path(name) / "checkpoints" / "best"):
        if (folder / "model.safetensors").is_file():
            return folder
    shipped = sorted(path.parent.name for path in SHIPPED.glob("*/model.safetensors"))
    raise CheckpointError(
        f"{name!r} is neither a folder with model.safetensors, nor a run, nor one of the shipped checkpoints: "
        f"{', '.join(shipped) or 'none'}"
    )


def read_config(schema: type[Config], folder: Path) -> Config:
    """The configuration that a checkpoint was trained with.

    Raises:
        ConfigError: it is missing, or is not one of ``schema``.
    """
    path = folder / "config.yaml"
    if not path.is_file() and folder.name == "best":  # which gets its own copy when training ends
        path = folder.parent.parent / "config.yaml"
    return load_config(schema, path)
