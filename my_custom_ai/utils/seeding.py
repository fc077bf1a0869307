"""Seeds, and the state of every random generator as data that needs no unpickling."""

import json
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, NumPy and PyTorch, on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """The states of all global generators that a training on ``device`` draws from, as byte tensors."""
    python, numpy = random.getstate(), np.random.get_state(legacy=False)
    numpy["state"]["key"] = numpy["state"]["key"].tolist()
    states = {"torch": torch.get_rng_state(), "python": _to_bytes(python), "numpy": _to_bytes(numpy)}
    if device.type != "cpu":
        states["device"] = torch.get_device_module(device).get_rng_state(*_device_argument(device))
    return states


def set_generator_states(states: dict[str, Tensor], device: torch.device) -> None:
    """Restore the states that :func:`generator_states` returned."""
    torch.set_rng_state(states["torch"])
    version, internal, gauss = _from_bytes(states["python"])
    random.setstate((version, tuple(internal), gauss))
    numpy = _from_bytes(states["numpy"])
    numpy["state"]["key"] = np.array(numpy["state"]["key"], dtype=np.uint32)
    np.random.set_state(numpy)
    if device.type != "cpu" and "device" in states:
        torch.get_device_module(device).set_rng_state(states["device"], *_device_argument(device))


def _device_argument(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)  # torch.mps has one device, and its functions take none


def _to_bytes(value: object) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _from_bytes(state: Tensor) -> Any:
    return json.loads(bytes(state.tolist()))
