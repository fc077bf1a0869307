"""Devices, precision and processes. No other file of the engine names a device."""

import importlib.util
import os
from datetime import timedelta
from typing import get_args

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState, is_initialized
from accelerate.utils import DistributedDataParallelKwargs

from my_custom_ai.custom_train.errors import SetupError
from my_custom_ai.custom_train.names import DeviceName, MatmulPrecision, Precision


def available_devices() -> list[str]:
    """Device names of this machine, the fastest first."""
    found = ["cuda"] if torch.cuda.is_available() else []
    found += ["mps"] if torch.backends.mps.is_available() else []
    return [*found, "cpu"]


def device_called(name: DeviceName) -> torch.device:
    """The torch.device of a name, for code that does not use accelerate.

    Args:
        name: a device name; "auto" selects the fastest available device.

    Raises:
        ValueError: unknown device name.
        SetupError: this machine has no such device.
    """
    if name not in get_args(DeviceName):
        raise ValueError(f"device is {name!r}, must be one of {', '.join(get_args(DeviceName))}")
    available = available_devices()
    if name != "auto" and name not in available:
        raise SetupError(f"device {name!r} is not available on this machine, which has: {', '.join(available)}")
    return torch.device(available[0] if name == "auto" else name)


def start(
    device: DeviceName = "auto",
    precision: Precision = "no",
    matmul_precision: MatmulPrecision = "highest",
    wait_minutes: float = 10.0,
) -> Accelerator:
    """Create accelerate's Accelerator, which manages the device, processes (torchrun) and precision.

    Call it again for the next training, possibly with another device or precision; use only the newest one.

    Args:
        device: where to compute; "auto" selects the fastest available device.
        precision: "bf16" and "fp16" run the model under autocast; the weights stay float32.
        matmul_precision: precision of float32 matrix products on CUDA, a process-wide setting. "high" lets tensor cores
            round operands to TF32 (10 bits of mantissa instead of 23), which is faster. On other devices it is always
            "highest".
        wait_minutes: how long a process waits for another one before it gives up. It must be longer than the time that
            any process takes to read its data or to save. Only the first call in a process sets it.

    Raises:
        ValueError: unknown device, precision or matmul_precision, or wait_minutes is not positive.
        SetupError: this machine lacks the device, or the device does not support the precision.
    """
    _check_names(precision, matmul_precision)
    if not wait_minutes > 0:
        raise ValueError(f"wait_minutes is {wait_minutes}, must be above 0")
    wanted = device_called(device).type
    if precision == "fp16" and wanted == "cpu":
        raise SetupError("precision 'fp16' needs a GPU; on a CPU use 'no' or 'bf16'")
    torch.set_float32_matmul_precision(matmul_precision if wanted == "cuda" else "highest")
    _prepare_state(wanted, precision, timedelta(minutes=wait_minutes))
    return Accelerator(cpu=wanted == "cpu", mixed_precision=precision, kwargs_handlers=[_gradient_buckets()])


def _gradient_buckets() -> DistributedDataParallelKwargs:
    """Keep DistributedDataParallel from rebuilding its gradient buckets after the first backward pass.

    With three or more processes, a sum depends on the order of its terms, which depends on a gradient's place in its
    bucket. If buckets were rebuilt, the first update after a resume would differ from that of an uninterrupted
    training. DistributedDataParallel keeps its buckets only with find_unused_parameters; it warns once that it found
    none.
    """
    return DistributedDataParallelKwargs(find_unused_parameters=int(os.environ.get("WORLD_SIZE", 1)) > 2)


def shares_of_devices(places: int) -> list[str | None]:
    """CUDA devices for ``places`` parallel processes, assigned round robin; all None if there is at most one device."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    return [names[place % len(names)] if len(names) > 1 else None for place in range(places)]


def use_share(device: str | None, places: int) -> None:
    """Restrict this new process, one of ``places`` parallel ones, to one CUDA device and its share of CPU threads."""
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # takes effect because CUDA is not yet initialised
    torch.set_num_threads(max(1, torch.get_num_threads() // places))


def _check_names(precision: str, matmul_precision: str) -> None:
    for name, value, allowed in (
        ("precision", precision, Precision),
        ("matmul_precision", matmul_precision, MatmulPrecision),
    ):
        if value not in get_args(allowed):
            raise ValueError(f"{name} is {value!r}, must be one of {', '.join(get_args(allowed))}")


def _prepare_state(device: str, precision: str, patience: timedelta) -> None:
    """Make sure that an Accelerator with this device and precision can be created.

    accelerate keeps a process's device and precision in a shared state that is created once. A later Accelerator reuses
    it: another precision raises an error, and another device is ignored. No public function resets the state, so the
    private one is called, but only if the device or the precision of this process changes.
    """
    state = PartialState(cpu=device == "cpu", timeout=patience)  # the process's state; created if there is none
    if state.device.type != device or (is_initialized() and AcceleratorState().mixed_precision != precision):
        AcceleratorState._reset_state(reset_partial_state=True)


def check_installed(trackers: tuple[str, ...]) -> None:
    """Check that trackers are installed, before any lengthy work.

    Raises:
        SetupError: a tracker is not installed.
    """
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            raise SetupError(f"tracker {name!r} is not installed; pip install {name}, or leave it out")
