"""Cost of a call: time, allocated memory, memory of the process, floating-point operations."""

import contextlib
import itertools
import json
import multiprocessing.context
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from torch._library.custom_ops import OPDEFS
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # silences the messages that PyTorch's profiler writes to stderr


def seconds_of(call: Callable[[], Any], device: torch.device, *, calls: int = 5, warm_up: int = 1) -> list[float]:
    """Wall-clock seconds of each of ``calls`` calls after ``warm_up`` untimed ones, until the device has finished."""
    found = []
    for _ in range(warm_up + calls):
        _wait_for(device)
        start = time.perf_counter()
        call()
        _wait_for(device)
        found.append(time.perf_counter() - start)
    return found[warm_up:]


def seconds_within(
    call: Callable[[], Any],
    device: torch.device,
    *,
    budget: float,
    least: int = 5,
    most: int = 100,
    patience: float = 4.0,
) -> list[float]:
    """Seconds of each of as many calls as fit in a time budget.

    Two calls come first: a warm-up, and one whose time determines how many calls fit. On CUDA the others are queued
    without waiting in between and timed by events, so the device idles only if the host cannot launch fast enough.

    Args:
        call: the function to measure.
        device: where it runs.
        budget: seconds for all calls.
        least: minimum number of calls, even if they exceed ``budget``.
        most: maximum number of calls.
        patience: hard limit in seconds for all calls, which takes precedence over ``least``. If a single call takes
            that long, only the second of the first two calls is returned.

    Returns:
        At least one time.
    """
    once = seconds_of(call, device, calls=1, warm_up=1)
    if once[0] >= patience:
        return once
    calls = min(max(least, int(budget / once[0])), most, max(1, int(patience / once[0])))
    return (
        _by_events(call, device, calls) if device.type == "cuda" else seconds_of(call, device, calls=calls, warm_up=0)
    )


def _by_events(call: Callable[[], Any], device: torch.device, calls: int) -> list[float]:
    """Time calls by a CUDA event between each two."""
    stream = torch.cuda.current_stream(device)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    events[0].record(stream)
    for event in events[1:]:
        call()
        event.record(stream)
    torch.cuda.synchronize(device)
    return [start.elapsed_time(end) / 1000 for start, end in itertools.pairwise(events)]


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)


class _NoModules:
    """Replaces FlopCounterMode's module tracker, whose hooks fail in the backward pass of a reversible stack."""

    parents = ("Global",)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class _InsideOperators(TorchDispatchMode):
    """Runs the Python functions behind custom operators, so that other dispatch modes see the operations inside."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operator = OPDEFS.get(func._schema.name)
        return (func if operator is None else operator._init_fn)(*args, **(kwargs or {}))


def flops_of(call: Callable[[], Any]) -> int:
    """Floating-point operations of a call, including backward passes in it, as PyTorch's FlopCounterMode counts them.

    It counts matrix products, convolutions and scaled_dot_product_attention, with a multiply-add as two operations.
    Attention with a causal mask counts in full. Triton kernels are not counted.
    """
    aten, counter = torch.ops.aten, FlopCounterMode(display=False)
    formulas = counter.flop_registry  # has no formula for attention on a CPU
    for end in ("", "_backward"):
        on_cpu = getattr(aten, f"_scaled_dot_product_flash_attention_for_cpu{end}")
        formulas[on_cpu] = formulas[getattr(aten, f"_scaled_dot_product_flash_attention{end}")]
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    with counter, _InsideOperators():  # type: ignore[no-untyped-call]
        call()
    return counter.get_total_flops()


def allocated_peak(call: Callable[[], Any], device: torch.device) -> int:
    """Peak bytes allocated by PyTorch during a call, above what was allocated before it.

    It counts PyTorch's allocations only, so the same call yields the same number. On a CPU it does not include the
    workspaces of libraries (:func:`process_peak` does), nor notice if the call frees memory allocated before it.

    Raises:
        ValueError: the device is neither a CPU nor a CUDA device.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        raise ValueError(f"PyTorch does not report peak memory on {device.type}; use cpu or cuda")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    now = peak = 0
    for event in sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: e["ts"]):
        now += event["args"]["Bytes"]
        peak = max(peak, now)
    return peak


def process_peak(call: Callable[[], Any]) -> int | None:
    """Peak growth of this process's resident memory during a call, in bytes.

    On a CPU this is all that a call takes: it includes the allocations of libraries, and pages that the allocator does
    not return. Memory that earlier calls left to the allocator may be reused without being counted, so measure once
    in a fresh process (:func:`in_fresh_process`).

    Returns:
        None on systems other than Linux, which do not report it.
    """
    if not _CLEAR_REFS.exists():
        call()
        return None
    _CLEAR_REFS.write_text("5")  # resets the peak, VmHWM
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def restart_peak(device: torch.device) -> None:
    """Reset the peak that :func:`peak_since_restart` returns."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR_REFS.exists():
        with contextlib.suppress(OSError):  # some containers forbid it; then the peak is that since the process started
            _CLEAR_REFS.write_text("5")


def peak_since_restart(device: torch.device) -> int | None:
    """Peak memory in bytes since :func:`restart_peak`.

    On CUDA it is the memory that PyTorch allocated on the device; on a CPU, the resident memory of this process,
    including libraries. None if it is not reported: on systems other than Linux, and on other devices.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM") if device.type == "cpu" and _STATUS.exists() else None


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text())
    assert found is not None  # every Linux that can reset VmHWM reports both
    return 1024 * int(found[1])


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)`` in a fresh process, unaffected by earlier measurements.

    The process uses as many threads as this one. Function, arguments and result are pickled, so the function must be
    defined at the top level of a module. Its exceptions are raised here.

    Raises:
        ChildProcessError: the process was killed.
    """
    threads = (torch.get_num_threads(),)
    context = _context(function.__module__.partition(".")[0])
    with ProcessPoolExecutor(1, mp_context=context, initializer=torch.set_num_threads, initargs=threads) as pool:
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool:
            raise ChildProcessError("the measuring process was killed, perhaps because memory ran out") from None


def _context(package: str) -> multiprocessing.context.BaseContext:
    """Forkserver context with torch and this process's imports of ``package`` preloaded: new processes start fast."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")  # slower: each process imports everything
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", *(name for name in sys.modules if name.partition(".")[0] == package)])
    return context


def spread(values: list[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def machine(device: torch.device) -> dict[str, str | int]:
    """The hardware and versions that measurements were made with."""
    name = processor() if device.type == "cpu" else torch.get_device_module(device).get_device_name(device)
    found = {"device": name, "python": platform.python_version(), "torch": torch.__version__}
    return found | ({"threads": torch.get_num_threads(), "cores": os.cpu_count() or 0} if device.type == "cpu" else {})


def device_title(device: torch.device, processes: int = 1) -> str:
    """Short name of the hardware for tables: ``AMD EPYC, 2 threads`` or ``4 x NVIDIA H100``."""
    found = machine(device)
    threads = f", {found['threads']} thread{'s' if found['threads'] != 1 else ''}" if "threads" in found else ""
    return f"{f'{processes} x ' if processes > 1 else ''}{found['device']}{threads}"


def processor() -> str:
    """The CPU's model name."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
