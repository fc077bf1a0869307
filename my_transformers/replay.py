"""Repeat a computation exactly: the same random numbers and the same discrete decisions.

A reversible layer (rev_layers.py) does not keep its input; backward reconstructs it, equal but for rounding, and
runs the layer again. Dropout must then draw the same mask, and a hash must put each token in the same bucket even
where rounding moved it across a border: otherwise the gradient belongs to another function. A :class:`Recording`
holds both for one call of a layer.
"""

import contextlib
import threading
import types
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

_active = threading.local()  # backward replays on autograd's own threads


class Recording:
    """Everything that one call of a function decided: generator states at its start and remembered tensors."""

    def __init__(self, like: Tensor) -> None:
        """Take the state of the CPU's generator and, if ``like`` lives elsewhere, of its device's."""
        self._device = like.device
        self._cpu_state = torch.get_rng_state()
        self._device_state = None if like.device.type == "cpu" else self._device_module().get_rng_state(like.device)
        self._autocast = torch.is_autocast_enabled(like.device.type)
        self._autocast_dtype = torch.get_autocast_dtype(like.device.type)
        self._decisions: list[Tensor] = []
        self._next: int | None = None

    def _device_module(self) -> types.ModuleType:
        return torch.get_device_module(self._device)

    @contextlib.contextmanager
    def record(self) -> Iterator[None]:
        """Remember what :func:`decide` computes inside."""
        with self._activate():
            yield

    @contextlib.contextmanager
    def replay(self) -> Iterator[None]:
        """Run under the recorded generator states, autocast and decisions; leave the global generators untouched."""
        devices = [] if self._device.type == "cpu" else [self._device]
        with torch.random.fork_rng(devices, device_type=self._device.type if devices else "cuda"):
            torch.set_rng_state(self._cpu_state)
            if self._device_state is not None:
                self._device_module().set_rng_state(self._device_state, self._device)
            self._next = 0
            autocast = torch.autocast(self._device.type, dtype=self._autocast_dtype, enabled=self._autocast)
            with autocast, self._activate():
                yield

    def decision(self, compute: Callable[[], Tensor]) -> Tensor:
        """Compute and keep, or give back what was kept at this place of the first run."""
        if self._next is None:
            self._decisions.append(compute())
            return self._decisions[-1]
        self._next += 1
        return self._decisions[self._next - 1]

    @contextlib.contextmanager
    def _activate(self) -> Iterator[None]:
        outer = getattr(_active, "recording", None)
        _active.recording = self
        try:
            yield
        finally:
            _active.recording = outer


def decide(compute: Callable[[], Tensor]) -> Tensor:
    """``compute()``, or, inside :meth:`Recording.replay`, what it gave the first time.

    For discrete outcomes (LSH buckets) that rounding could change. Draw random numbers outside ``compute``: a replay
    must consume the generator as the first run did.
    """
    recording = None if torch.compiler.is_compiling() else getattr(_active, "recording", None)
    return compute() if recording is None else recording.decision(compute)
