"""The state of a training in one file, which is whole or not there, and the one before it until this one is proven."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import my_custom_ai.custom_train.checkpoint as checkpoint  # "from" would ask the package, which imports the trainer
from my_custom_ai.custom_train.errors import CheckpointError
from my_custom_ai.utils.files import whole_file


class StateFile:
    """Where a training saves its state.

    A saved state is proven by an update of its weights whose loss and gradient were finite. Until then the state before
    it, which is proven, stays beside it as a second name of the old file.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before = path.with_name(f"before.{path.name}")
        self._is_proven = False

    @property
    def step(self) -> int | None:
        """Updates done in the saved state; None: there is none."""
        return checkpoint.load_note(self.path).get("step") if self.path.exists() else None

    def save(self, tensors: dict[str, Tensor], note: dict[str, Any]) -> None:
        """Replace the state, which is kept until :meth:`proven` unless it is not proven itself."""
        if self.path.exists() and not self._before.exists():
            _second_name(self.path, self._before)
        checkpoint.save_tensors(self.path, tensors, note)
        self._is_proven = False

    def proven(self) -> None:
        """Forget the state before: an update has shown that this one is good."""
        if not self._is_proven:
            self._before.unlink(missing_ok=True)
        self._is_proven = True

    def failed_after(self, step: int) -> None:
        """The update after ``step`` was not finite: if it began from this state, go back to the one before."""
        if self.step == step and self._before.exists():
            self._before.replace(self.path)

    def __str__(self) -> str:
        return "none was saved yet" if self.step is None else f"{self.path} (step {self.step:,})"


def _second_name(path: Path, other: Path) -> None:
    try:
        os.link(path, other)
    except OSError:  # a file system without hard links
        with whole_file(other) as part:
            shutil.copyfile(path, part)


def load_state(path: Path, processes: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and note of a saved state.

    Raises:
        CheckpointError: it is not whole, is no state, or was saved by another number of processes.
    """
    tensors, note = checkpoint.load_tensors(path)
    if "processes" not in note:
        raise CheckpointError(f"{path}: holds weights or other tensors, but no training to continue")
    if note["processes"] != processes:
        raise CheckpointError(
            f"{path}: saved by {note['processes']} process(es), cannot continue exactly on {processes}"
        )
    return tensors, note


def tensors_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, generators: list[dict[str, Tensor]]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights, moments and the random generators of every process, and the optimiser's numbers."""
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
    """Weights and moments of :func:`tensors_of`; ``path`` is named in complaints."""
    checkpoint.fill(model, checkpoint.without_prefix("model", tensors), path)
    moments = checkpoint.without_prefix("optimizer", tensors)
    optimizer.load_state_dict(checkpoint.optimizer_state(moments, numbers, optimizer.state_dict()))
