"""The one place that knows device names."""

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
    """Those of this machine, the fastest first."""
    found = ["cuda"] if torch.cuda.is_available() else []
    found += ["mps"] if torch.backends.mps.is_available() else []
    return [*found, "cpu"]


def device_called(name: DeviceName) -> torch.device:
    """The device that a name means, for computing without accelerate.

    Args:
        name: "auto" takes the fastest there is.

    Raises:
        ValueError: no such device name.
        SetupError: this machine has no such device.
    """
    if name not in get_args(DeviceName):
        raise ValueError(f"device is {name!r}, must be one of {', '.join(get_args(DeviceName))}")
    there = available_devices()
    if name != "auto" and name not in there:
        raise SetupError(f"device {name!r} is not on this machine, which has: {', '.join(there)}")
    return torch.device(there[0] if name == "auto" else name)


def start(
    device: DeviceName = "auto",
    precision: Precision = "no",
    matmul_precision: MatmulPrecision = "highest",
    wait_minutes: float = 10.0,
) -> Accelerator:
    """Accelerate's handle on devices, processes (torchrun) and precision.

    Call it again for the next training, also with another device or precision; use only the newest handle.

    Args:
        device: where to compute; "auto" takes the fastest there is.
        precision: "bf16" and "fp16" run the model under autocast; the weights stay float32.
        matmul_precision: of float32 matrix products on CUDA, a setting of the whole process: "high" lets tensor cores
            round their factors to TF32 (10 bits of mantissa instead of 23), which is faster. Elsewhere it is always
            "highest".
        wait_minutes: how long a process waits for another before it gives up, which must be longer than any reads its
            data or saves; of the process's first call alone.

    Raises:
        ValueError: no such device name, precision or matmul_precision; no time to wait.
        SetupError: this machine has no such device, or the device no such precision.
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
    """Keep DistributedDataParallel from ordering its buckets of gradients anew after the first backward pass.

    A sum of three or more numbers depends on their order, which follows from a gradient's place in its bucket, so the
    first update after a resume would differ from that of a training that went on. It leaves the buckets as they are
    only if it looks for parameters without a gradient, and warns once that it found none.
    """
    return DistributedDataParallelKwargs(find_unused_parameters=int(os.environ.get("WORLD_SIZE", 1)) > 2)


def shares_of_devices(places: int) -> list[str | None]:
    """The CUDA device for each of so many processes side by side, all in turns; None where there is only one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    return [names[place % len(names)] if len(names) > 1 else None for place in range(places)]


def use_share(device: str | None, places: int) -> None:
    """Let this new process, one of ``places``, use one CUDA device alone, and its part of the CPU's threads."""
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # which CUDA reads when it is first used
    torch.set_num_threads(max(1, torch.get_num_threads() // places))


def _check_names(precision: str, matmul_precision: str) -> None:
    for name, value, allowed in (
        ("precision", precision, Precision),
        ("matmul_precision", matmul_precision, MatmulPrecision),
    ):
        if value not in get_args(allowed):
            raise ValueError(f"{name} is {value!r}, must be one of {', '.join(get_args(allowed))}")


def _prepare_state(device: str, precision: str, patience: timedelta) -> None:
    """Make sure that an Accelerator can be made for a device and a precision.

    accelerate keeps the device and the precision of a process in one shared state, made once. A later Accelerator uses
    it; one that wants another precision is refused, and another device would be ignored. No public function empties
    the state. The private one is called only where there is no other way: when a process that has computed with one
    device or precision goes on with another.
    """
    state = PartialState(cpu=device == "cpu", timeout=patience)  # of this process; made here if it has none yet
    if state.device.type != device or (is_initialized() and AcceleratorState().mixed_precision != precision):
        AcceleratorState._reset_state(reset_partial_state=True)


def check_installed(trackers: tuple[str, ...]) -> None:
    """Make sure that trackers can be imported, before anything takes its time.

    Raises:
        SetupError: names the first that is not installed.
    """
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            raise SetupError(f"tracker {name!r} is not installed; pip install {name}, or leave it out")
