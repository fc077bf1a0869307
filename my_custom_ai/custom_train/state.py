"""The saved state of a training in one file, with the previous state as a fallback until the new one is proven good."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

import my_custom_ai.custom_train.checkpoint as checkpoint  # "from ... import" would import the trainer: a cycle
from my_custom_ai.custom_train.errors import CheckpointError
from my_custom_ai.custom_train.sharding import like
from my_custom_ai.utils.files import whole_file
from my_custom_ai.utils.seeding import seed_everything, set_generator_states


class StateFile:
    """The file of a training's saved state.

    A saved state counts as proven once an update from its weights had a finite loss and gradient. Until then the
    previous state, which is proven, is kept as ``before.<name>`` (a hard link, so nothing is copied).

    Args:
        path: path of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before = path.with_name(f"before.{path.name}")
        self._is_proven = False

    @property
    def step(self) -> int | None:
        """The number of updates done in the saved state; None: there is no saved state."""
        return checkpoint.load_note(self.path).get("step") if self.path.exists() else None

    def save(self, tensors: dict[str, Tensor], note: dict[str, Any]) -> None:
        """Replace the state. The old one is kept until :meth:`proven`, unless an even older proven one is kept."""
        if self.path.exists() and not self._before.exists():
            _link_or_copy(self.path, self._before)
        checkpoint.save_tensors(self.path, tensors, note)
        self._is_proven = False

    def proven(self) -> None:
        """Mark the state as good after a finite update, and remove the previous one."""
        if not self._is_proven:
            self._before.unlink(missing_ok=True)
        self._is_proven = True

    def failed_after(self, step: int) -> None:
        """If the saved state is that of ``step``, whose next update was not finite, go back to the previous state."""
        if self.step == step and self._before.exists():
            self._before.replace(self.path)

    def __str__(self) -> str:
        return "none was saved yet" if self.step is None else f"{self.path} (step {self.step:,})"


def _link_or_copy(path: Path, other: Path) -> None:
    try:
        os.link(path, other)
    except OSError:  # a file system without hard links
        with whole_file(other) as part:
            shutil.copyfile(path, part)


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and note of a saved state.

    Raises:
        CheckpointError: the file is damaged, or is not a state.
    """
    tensors, note = checkpoint.load_tensors(path)
    if "processes" not in note:
        raise CheckpointError(f"{path}: contains weights or other tensors, but not the state of a training")
    return tensors, note


def tensors_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, generators: list[dict[str, Tensor]]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights, optimiser moments and generator states of every process as tensors; and the optimiser's numbers."""
    moments, numbers = checkpoint.optimizer_tensors(optimizer.state_dict())
    tensors = checkpoint.prefixed("model", checkpoint.weights(model))
    tensors |= checkpoint.prefixed("optimizer", moments)
    for rank, states in enumerate(generators):
        tensors |= checkpoint.prefixed(f"generator.{rank}", states)
    return tensors, numbers


def put_back(
    tensors: dict[str, Tensor],
    numbers: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    path: Path,
) -> None:
    """Restore weights and moments from the tensors of :func:`tensors_of`; ``path`` is for error messages."""
    checkpoint.fill(model, checkpoint.without_prefix("model", tensors), path)
    moments = checkpoint.without_prefix("optimizer", tensors)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {name: like(moment, parameters[int(name.partition(".")[0])]) for name, moment in moments.items()}
    optimizer.load_state_dict(checkpoint.optimizer_state(moments, numbers, optimizer.state_dict()))


def put_back_generators(tensors: dict[str, Tensor], seeds: tuple[int, int], accelerator: Accelerator) -> None:
    """Restore this process's generators; if another number of processes saved them, seed new ones from ``seeds``."""
    saved = {name.split(".")[0] for name in checkpoint.without_prefix("generator", tensors)}
    if len(saved) == accelerator.num_processes:
        own = checkpoint.without_prefix(f"generator.{accelerator.process_index}", tensors)
        set_generator_states(own, accelerator.device)
    else:
        mixed = np.random.SeedSequence((*seeds, accelerator.process_index)).generate_state(1)
        seed_everything(int(mixed[0]))
