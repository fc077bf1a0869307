"""The one place that knows device names."""

import importlib.util

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from my_custom_ai.custom_train.errors import SetupError
from my_custom_ai.custom_train.names import DeviceName, Precision


def available_devices() -> list[str]:
    """Those of this machine, the fastest first."""
    found = ["cuda"] if torch.cuda.is_available() else []
    found += ["mps"] if torch.backends.mps.is_available() else []
    return [*found, "cpu"]


def start(device: DeviceName = "auto", precision: Precision = "no") -> Accelerator:
    """Accelerate's handle on devices, processes (torchrun) and precision.

    Raises:
        SetupError: this machine has no such device, or the device no such precision.
    """
    if device != "auto" and device not in available_devices():
        raise SetupError(f"device {device!r} is not on this machine, which has: {', '.join(available_devices())}")
    wanted = available_devices()[0] if device == "auto" else device
    if precision == "fp16" and wanted == "cpu":
        raise SetupError("precision 'fp16' needs a GPU; on a CPU use 'no' or 'bf16'")
    AcceleratorState._reset_state(reset_partial_state=True)  # accelerate has one state a process: the last run's
    return Accelerator(cpu=wanted == "cpu", mixed_precision=precision)


def check_installed(trackers: tuple[str, ...]) -> None:
    """Make sure that trackers can be imported, before anything takes its time.

    Raises:
        SetupError: names the first that is not installed.
    """
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            raise SetupError(f"tracker {name!r} is not installed; pip install {name}, or leave it out")
