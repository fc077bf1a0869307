"""Repeat a computation exactly: the same random numbers and the same discrete decisions.

A reversible layer (rev_layers.py) does not keep its input; backward reconstructs it, equal but for rounding, and
runs the layer again. Dropout must then draw the same mask, and a hash must put each token in the same bucket even
where rounding moved it across a border: otherwise the gradient belongs to another function. A :class:`Recording`
holds both for one call of a layer.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

_active = threading.local()  # backward replays on autograd's own threads


class Recording:
    """Everything that one call of a function decided: generator states at its start and remembered tensors."""

    def __init__(self, like: Tensor) -> None:
        """Take the states of the generators that a call on ``like``'s device draws from."""
        self._device = like.device
        self._generators = _generator_states(like.device)
        self._autocast = torch.is_autocast_enabled(like.device.type)
        self._autocast_dtype = torch.get_autocast_dtype(like.device.type)
        self._decisions: list[Tensor] = []
        self._next: int | None = None

    @contextlib.contextmanager
    def record(self) -> Iterator[None]:
        """Remember what :func:`decide` computes inside."""
        with self._activate():
            yield

    @contextlib.contextmanager
    def replay(self) -> Iterator[None]:
        """Run under the recorded generator states, autocast and decisions; leave the global generators as they are."""
        outside = _generator_states(self._device)
        _set_generator_states(self._device, self._generators)
        self._next = 0
        autocast = torch.autocast(self._device.type, dtype=self._autocast_dtype, enabled=self._autocast)
        try:
            with autocast, self._activate():
                yield
        finally:
            _set_generator_states(self._device, outside)

    def decision(self, compute: Callable[[], Tensor]) -> Tensor:
        """Compute and keep, or, in a replay, return what was kept at this place of the first run."""
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
    """``compute()``, or, inside :meth:`Recording.replay`, what it returned the first time.

    For discrete outcomes (LSH buckets) that rounding could change. Draw random numbers outside ``compute``: a replay
    must consume the generator as the first run did.
    """
    recording = None if torch.compiler.is_compiling() else getattr(_active, "recording", None)
    return compute() if recording is None else recording.decision(compute)


def _generator_states(device: torch.device) -> tuple[Tensor, ...]:
    """Of the CPU's global generator and, on another device, of that device's."""
    if device.type == "cpu":
        return (torch.get_rng_state(),)
    return torch.get_rng_state(), torch.get_device_module(device).get_rng_state(*_which(device))


def _set_generator_states(device: torch.device, states: tuple[Tensor, ...]) -> None:
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1], *_which(device))


def _which(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)  # there is but one, and its functions take no device
