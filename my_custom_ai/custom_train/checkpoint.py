"""Weights and training states in safetensors files: written atomically, with a checksum, and never unpickled."""

import contextlib
import functools
import json
import logging
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from my_custom_ai.custom_train.checksums import agrees_with_sums, tensors_digest
from my_custom_ai.custom_train.errors import CheckpointError
from my_custom_ai.custom_train.sharding import like
from my_custom_ai.utils.files import whole_file

# "<checksum> <note>", a single entry of the header: safetensors does not keep the order of several, and files with the
# same content should be identical
_CHECKED = re.compile(r"([0-9a-f]{64}) (.*)", re.DOTALL)
_WRAPPERS = ("_orig_mod", "module")  # attribute under which torch.compile and DataParallel store the wrapped model


def save_tensors(path: Path | str, tensors: dict[str, Tensor], note: dict[str, Any] | None = None) -> None:
    """Atomically write tensors, with ``note`` as JSON and a checksum in the file's header."""
    # the clone separates tensors that share memory, which safetensors refuses
    ready = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(note or {})
    with whole_file(path) as part:
        save_file(ready, part, metadata={"note": f"{tensors_digest(ready, text)} {text}"})


def load_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors (to the CPU) and note of a safetensors file, and verify its checksum.

    A file of other origin may have no checksum; a warning is then logged once.

    Raises:
        CheckpointError: no such file, not a complete safetensors file, or the checksum does not match.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        note = json.loads(_checked_note(path, header, tensors))
    except (SafetensorError, ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"{path}: not a complete safetensors file ({error})") from error
    if not isinstance(note, dict):
        raise CheckpointError(f"{path}: its note is not a mapping, so this program did not write it")
    return tensors, note


def load_note(path: Path | str) -> dict[str, Any]:
    """The note of a file; the whole file is verified.

    Raises:
        CheckpointError: as :func:`load_tensors`.
    """
    return load_tensors(path)[1]


def _checked_note(path: Path, header: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """Verify the checksum, and return the note's text without it."""
    note = header.get("note", "{}")
    if match := _CHECKED.fullmatch(note):
        if match[1] == tensors_digest(tensors, match[2]):
            return match[2]
    elif not any(map(_CHECKED.fullmatch, header.values())):  # a checksum under another key: the key was damaged
        if not agrees_with_sums(path):
            _warn_unchecked(path)
        return note
    raise CheckpointError(f"{path}: damaged or changed: its checksum does not match its content")


@functools.cache
def _warn_unchecked(path: Path) -> None:
    logging.getLogger(__name__).warning("%s: has no checksum, so damage would go unnoticed", path)


@contextlib.contextmanager
def reading_state(path: Path) -> Iterator[None]:
    """Context manager: turn errors from missing or malformed parts of a state into a CheckpointError."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        missing = f": it lacks {error}" if isinstance(error, KeyError) else ""
        raise CheckpointError(f"{path}: not a complete training state{missing}") from error


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A model's parameters and persistent buffers by name; a shared tensor appears under its first name only.

    Names do not contain the prefix that ``torch.compile`` adds.
    """
    return {_without_parts(name, ("_orig_mod",)): tensor for name, tensor in _named(model).items()}


def _named(model: nn.Module) -> dict[str, Tensor]:
    """:func:`weights` by the names that ``load_state_dict`` takes."""
    first: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)  # without it, a shared tensor would be two objects
    return {name: tensor.detach() for name, tensor in state.items() if first.setdefault(id(tensor), name) == name}


def save_weights(path: Path | str, model: nn.Module, note: dict[str, Any] | None = None) -> None:
    """Write a model's parameters and persistent buffers, shared ones once."""
    save_tensors(path, weights(model), note)


def load_weights(path: Path | str, model: nn.Module) -> dict[str, Any]:
    """Load a file's weights into a model; return the file's note.

    The model, and the one that was saved, may be compiled or wrapped in ``DataParallel``; see :func:`by_own_names`.

    Raises:
        CheckpointError: the file is damaged, or its names or shapes differ from the model's.
    """
    tensors, note = load_tensors(path)
    fill(model, tensors, path)
    return note


def fill(model: nn.Module, tensors: dict[str, Tensor], path: Path | str, *, strict: bool = True) -> list[str]:
    """Copy tensors into a model's :func:`weights` after checking names, shapes, dtypes and values.

    Args:
        model: the model to fill.
        tensors: tensors by name.
        path: the file that they come from, for error messages.
        strict: refuse any difference; False: copy the tensors whose names and shapes match.

    Returns:
        One line per difference; empty if ``strict``.

    Raises:
        CheckpointError: strict, and there are differences (the message lists the first few); not strict, and nothing
            matches; or, in both cases, invalid dtypes or values: see :func:`_check_values`.
    """
    own = _named(model)
    tensors = by_own_names(tensors, own)
    fitting = {name: tensor for name, tensor in tensors.items() if name in own and tensor.shape == own[name].shape}
    problems = [f"lacks {name}" for name in own if name not in tensors]
    problems += [f"has {name}, which the model lacks" for name in tensors if name not in own]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, the model's is {tuple(value.shape)}"
        for name, value in own.items()
        if name in tensors and name not in fitting
    ]
    if problems and (strict or not fitting):
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise CheckpointError(f"{path}: weights of another model: {'; '.join(problems[:3])}{more}")
    _check_values(fitting, own, path)
    fitting = {name: like(tensor, own[name]) for name, tensor in fitting.items()}
    model.load_state_dict(fitting, strict=False)  # not strict: the further names of shared tensors are missing
    return problems


def _check_values(tensors: dict[str, Tensor], own: dict[str, Tensor], path: Path | str) -> None:
    """Refuse dtypes that ``load_state_dict`` would convert silently, and values that are not finite.

    Floating-point tensors may differ in width from the model's; all others must have the model's dtype. Values must be
    finite unless the model's own are not: a buffer may be a mask of minus infinity.
    """
    for name, tensor in tensors.items():
        kept = own[name]
        if tensor.dtype != kept.dtype and not (tensor.is_floating_point() and kept.is_floating_point()):
            raise CheckpointError(f"{path}: {name} is {_dtype(tensor)}, the model's is {_dtype(kept)}")
        if not tensor.isfinite().all() and kept.isfinite().all():
            raise CheckpointError(f"{path}: {name} has nan or infinite values")


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def by_own_names(tensors: dict[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Rename tensors to the names in ``own`` from which they differ only by the prefixes of wrappers.

    ``torch.compile`` adds ``_orig_mod.`` to the names of what it wraps, ``DataParallel`` and
    ``DistributedDataParallel`` add ``module.``. Nothing is renamed if two names would become one.
    """
    known = {_without_parts(name, _WRAPPERS): name for name in own}
    renamed = {known.get(_without_parts(name, _WRAPPERS), name): tensor for name, tensor in tensors.items()}
    ambiguous = len(known) < len(own) or len(renamed) < len(tensors)
    return tensors if ambiguous else renamed


def unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by their names without the prefixes of wrappers; see :func:`by_own_names`."""
    return by_own_names(tensors, {_without_parts(name, _WRAPPERS) for name in tensors})


def _without_parts(name: str, parts: tuple[str, ...]) -> str:
    return ".".join(part for part in name.split(".") if part not in parts)


def optimizer_tensors(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimiser's ``state_dict()`` into named tensors and named numbers."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, float] = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            (tensors if isinstance(value, Tensor) else numbers)[f"{index}.{name}"] = value
    return tensors, numbers


def optimizer_state(tensors: dict[str, Tensor], numbers: dict[str, float], like: dict[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`optimizer_tensors`; parameter groups are taken from the ``state_dict()`` ``like``."""
    state: dict[int, dict[str, Tensor | float]] = {}
    values: dict[str, Tensor | float] = {**tensors, **numbers}
    for key, value in values.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": like["param_groups"]}


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put ``prefix.`` before each name."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose names begin with ``prefix.``, by names without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def count_parameters(model: nn.Module) -> int:
    """The number of trainable parameters; shared ones count once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
