"""Weights and training states in safetensors files: whole at any instant, and never unpickled."""

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
from my_custom_ai.utils.files import whole_file

_CHECKED = re.compile(r"([0-9a-f]{64}) (.*)", re.DOTALL)  # checksum and note; in one entry, as their order is random
_WRAPPERS = ("_orig_mod", "module")  # what torch.compile and DataParallel call the model in them


def save_tensors(path: Path | str, tensors: dict[str, Tensor], note: dict[str, Any] | None = None) -> None:
    """Write tensors, and ``note`` as JSON in the file's header, to one whole file with a checksum."""
    ready = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}  # parts of one apart
    text = json.dumps(note or {})
    with whole_file(path) as part:
        save_file(ready, part, metadata={"note": f"{tensors_digest(ready, text)} {text}"})


def load_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote, to the CPU; of a file of others that has no checksum, that is said once.

    Raises:
        CheckpointError: no such file, not a whole safetensors file, or not what its checksum says.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        note = json.loads(_checked_note(path, header, tensors))
    except (SafetensorError, ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from error
    if not isinstance(note, dict):
        raise CheckpointError(f"{path}: its note is no mapping, so it was not written by this program")
    return tensors, note


def load_note(path: Path | str) -> dict[str, Any]:
    """The note alone, after the whole file was checked.

    Raises:
        CheckpointError: as :func:`load_tensors`.
    """
    return load_tensors(path)[1]


def _checked_note(path: Path, header: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """The note's text without the checksum in front of it, which must be right."""
    note = header.get("note", "{}")
    if match := _CHECKED.fullmatch(note):
        if match[1] == tensors_digest(tensors, match[2]):
            return match[2]
    elif not any(map(_CHECKED.fullmatch, header.values())):  # else its key was damaged
        if not agrees_with_sums(path):
            _say_unchecked(path)
        return note
    raise CheckpointError(f"{path}: damaged or changed: its checksum is not that of its content")


@functools.cache
def _say_unchecked(path: Path) -> None:
    logging.getLogger(__name__).warning("%s: has no checksum, so nobody can tell whether it is as it was written", path)


@contextlib.contextmanager
def reading_state(path: Path) -> Iterator[None]:
    """Whatever a state lacks, or has in the wrong form, becomes a CheckpointError."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        missing = f": it lacks {error}" if isinstance(error, KeyError) else ""
        raise CheckpointError(f"{path}: not a whole training state{missing}") from error


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A model's parameters and persistent buffers; what modules share has the first of its names alone.

    What ``torch.compile`` wrapped has the names that it had before.
    """
    return {_without_parts(name, ("_orig_mod",)): tensor for name, tensor in _named(model).items()}


def _named(model: nn.Module) -> dict[str, Tensor]:
    """The same, by the names that ``load_state_dict`` takes."""
    first: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)  # else shared ones were two tensors of one memory
    return {name: tensor.detach() for name, tensor in state.items() if first.setdefault(id(tensor), name) == name}


def save_weights(path: Path | str, model: nn.Module, note: dict[str, Any] | None = None) -> None:
    """Write a model's parameters and persistent buffers, shared ones once."""
    save_tensors(path, weights(model), note)


def load_weights(path: Path | str, model: nn.Module) -> dict[str, Any]:
    """Fill a model from a file; gives the file's note.

    Either may be compiled or in ``DataParallel``; see :func:`by_own_names`.

    Raises:
        CheckpointError: the file is not whole, or its names and shapes are not the model's.
    """
    tensors, note = load_tensors(path)
    fill(model, tensors, path)
    return note


def fill(model: nn.Module, tensors: dict[str, Tensor], path: Path | str, *, strict: bool = True) -> list[str]:
    """Copy tensors into a model's :func:`weights`, after names, shapes, dtypes and values were looked at.

    Args:
        model: to fill.
        tensors: by name.
        path: the file that they are from, for the message.
        strict: refuse any difference; False copies those whose names and shapes agree.

    Returns:
        A line for each difference; none if ``strict``.

    Raises:
        CheckpointError: names the first few differences; not strict: nothing agrees. Or values that no model of this
            kind has, strict or not: see :func:`_check_values`.
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
    model.load_state_dict(fitting, strict=False)  # it misses the other names of shared ones
    return problems


def _check_values(tensors: dict[str, Tensor], own: dict[str, Tensor], path: Path | str) -> None:
    """Refuse what ``load_state_dict`` would convert in silence, and numbers that are none.

    Floating point may have another width than the model's; everything else must have the model's dtype. Finite must be
    what the model itself has finite: a buffer may be a mask of minus infinity.
    """
    for name, tensor in tensors.items():
        kept = own[name]
        if tensor.dtype != kept.dtype and not (tensor.is_floating_point() and kept.is_floating_point()):
            raise CheckpointError(f"{path}: {name} is {_dtype(tensor)}, the model's is {_dtype(kept)}")
        if not tensor.isfinite().all() and kept.isfinite().all():
            raise CheckpointError(f"{path}: {name} has values that are nan or infinite")


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def by_own_names(tensors: dict[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Rename tensors to the names in ``own`` that differ in what wrappers added to either: ``_orig_mod``, ``module``.

    ``torch.compile`` puts ``_orig_mod.`` before the names of what it wraps, ``DataParallel`` and
    ``DistributedDataParallel`` put ``module.``. Nothing is renamed if two names would become one.
    """
    known = {_without_parts(name, _WRAPPERS): name for name in own}
    renamed = {known.get(_without_parts(name, _WRAPPERS), name): tensor for name, tensor in tensors.items()}
    ambiguous = len(known) < len(own) or len(renamed) < len(tensors)
    return tensors if ambiguous else renamed


def unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors by the names that they have without wrappers; see :func:`by_own_names`."""
    return by_own_names(tensors, {_without_parts(name, _WRAPPERS) for name in tensors})


def _without_parts(name: str, parts: tuple[str, ...]) -> str:
    return ".".join(part for part in name.split(".") if part not in parts)


def optimizer_tensors(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's ``state_dict()`` as named tensors, and the numbers beside them."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, float] = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            (tensors if isinstance(value, Tensor) else numbers)[f"{index}.{name}"] = value
    return tensors, numbers


def optimizer_state(tensors: dict[str, Tensor], numbers: dict[str, float], like: dict[str, Any]) -> dict[str, Any]:
    """The ``state_dict()`` of which :func:`optimizer_tensors` were taken; ``like`` gives the parameter groups."""
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
    """Those names that begin with ``prefix.``, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def count_parameters(model: nn.Module) -> int:
    """Learned numbers, shared ones once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
