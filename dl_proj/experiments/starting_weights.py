"""Initial weights from a checkpoint instead of random ones: a training's ``init_from``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dl_proj.checkpoint_folder import check_task, config_path, find_checkpoint, read_config
from dl_proj.experiments.settings import ExperimentConfig
from dl_proj.settings.errors import ConfigError
from my_custom_ai.custom_train import CheckpointError, RunDirectory
from my_custom_ai.custom_train.checkpoint import by_own_names, fill, load_tensors, weights
from my_transformers import AxialPositionalEncoding, LearnedPositionalEncoding


def load_starting_weights(config: ExperimentConfig, model: nn.Module) -> list[str]:
    """Load the weights of ``config.init_from`` into a model.

    Args:
        config: the training's configuration.
        model: the configured model. If its table of learned positions is shorter than the checkpoint's, the latter is
            truncated, unless the positions form a grid.

    Returns:
        A line for each difference between the weights and the model.

    Raises:
        ConfigError: no such checkpoint, one of another task, or weights that do not fit.
    """
    folder = _folder(config)
    if config_path(folder).is_file():
        check_task(type(config), config_path(folder))
    tensors, _ = load_tensors(folder / "model.safetensors")
    tensors = by_own_names(tensors, weights(model))
    cut = _cut_positions(config, tensors, model)
    try:
        return cut + fill(model, tensors, folder, strict=config.init_strict)
    except CheckpointError as error:
        other = "--init_strict false loads those that fit" if config.init_strict else "none of them fits"
        raise ConfigError(f"init_from: {error}; {other}") from None


def folder_with_tokens(config: Any, resume: RunDirectory | None, begun: Path | None) -> Path | None:
    """Return the folder with the tokenizers to use: that of ``init_from``, unless the run already has its own.

    None: the tokenizers are trained, or need no file.

    Args:
        config: the configuration of a training on text.
        resume: the run that it continues.
        begun: that run's folder, if it has tokenizers.

    Raises:
        ConfigError: no such checkpoint, or one with other tokenizer settings.
    """
    if config.init_from is None or begun is not None or (resume is not None and resume.last_state.is_file()):
        return begun
    folder = _folder(config)
    if not config_path(folder).is_file():
        return folder
    theirs = read_config(type(config), folder).data.tokenizer
    if theirs == config.data.tokenizer:
        return folder
    if config.init_strict:
        raise ConfigError(
            f"data.tokenizer: {_in_a_line(config.data.tokenizer)} differs from that of init_from: {config.init_from}, "
            f"{_in_a_line(theirs)}, so its weights belong to other tokens; use the same, or --init_strict false"
        )
    return None


def _folder(config: ExperimentConfig) -> Path:
    assert config.init_from is not None  # checked by the callers
    try:
        return find_checkpoint(config.init_from)
    except CheckpointError as error:
        raise ConfigError(f"init_from: {error}") from None


def _cut_positions(config: ExperimentConfig, tensors: dict[str, Tensor], model: nn.Module) -> list[str]:
    """Truncate each table of positions to the model's length; returns a line for each that was longer.

    Raises:
        ConfigError: with ``init_strict``, a table that cannot be truncated to the model's length.
    """
    lines = []
    for name, length in _position_tables(model):
        theirs = len(tensors.get(name, range(length)))
        if theirs > length and not config.GRID:
            lines.append(f"{name}: the first {length} of {theirs} rows")
            tensors[name] = tensors[name][:length]
        elif theirs != length and config.init_strict:
            reason = "belong to another grid" if config.GRID else "lack the later ones"
            raise ConfigError(
                f"init_from: {config.init_from} has {theirs} rows of learned positions ({name}), the model {length}; "
                f"they {reason}: choose {config.LENGTH} so that there are {theirs}{' at most' * (not config.GRID)}, "
                "or use --init_strict false to learn positions from scratch"
            )
    return lines


def _position_tables(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield each position table's name and number of rows, one per position or per row of an axial grid."""
    for name, module in model.named_modules():
        if isinstance(module, LearnedPositionalEncoding):
            yield f"{name}.weight", len(module.weight)
        if isinstance(module, AxialPositionalEncoding):
            yield f"{name}.rows", len(module.rows)


def _in_a_line(settings: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.model_dump(mode="json").items())
