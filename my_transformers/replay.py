"""Repeat a computation exactly: the same random numbers and the same discrete decisions.

A reversible layer (rev_layers.py) does not keep its input. Backward reconstructs it up to rounding errors and runs the
layer again. Dropout must then draw the same mask, and LSH must put each token into the same bucket even where rounding
moved it across a boundary; otherwise backward differentiates a different function than forward computed. A
:class:`Recording` holds both for one call of a layer.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

_active = threading.local()  # backward replays on autograd's own threads


class Recording:
    """What one call of a function must reproduce: generator states and autocast at its start, and its decisions."""

    def __init__(self, like: Tensor) -> None:
        """Save the states of the generators that a call on ``like``'s device draws from."""
        self._device = like.device
        self._generators = _generator_states(like.device)
        self._autocast = torch.is_autocast_enabled(like.device.type)
        self._autocast_dtype = torch.get_autocast_dtype(like.device.type)
        self._decisions: list[Tensor] = []
        self._next: int | None = None

    @contextlib.contextmanager
    def record(self) -> Iterator[None]:
        """Context manager: keep what :func:`decide` computes inside."""
        with self._activate():
            yield

    @contextlib.contextmanager
    def replay(self) -> Iterator[None]:
        """Context manager: restore generator states, autocast and decisions inside; reset the generators at exit."""
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
        """Compute and keep a decision; in a replay, return the one that the first run kept at this point."""
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
    """``compute()``; inside :meth:`Recording.replay`, what it returned in the first run.

    For discrete results (LSH buckets) that rounding could change. Draw random numbers outside ``compute``, which a
    replay skips: a replay must draw the same random numbers in the same order as the first run.
    """
    recording = None if torch.compiler.is_compiling() else getattr(_active, "recording", None)
    return compute() if recording is None else recording.decision(compute)


def _generator_states(device: torch.device) -> tuple[Tensor, ...]:
    """States of the CPU's global generator and, for another device, of that device's."""
    if device.type == "cpu":
        return (torch.get_rng_state(),)
    return torch.get_rng_state(), torch.get_device_module(device).get_rng_state(*_device_argument(device))


def _set_generator_states(device: torch.device, states: tuple[Tensor, ...]) -> None:
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1], *_device_argument(device))


def _device_argument(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)  # torch.mps has one device, and its functions take none
