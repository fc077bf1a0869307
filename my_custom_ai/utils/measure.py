"""What a call costs: its time, the memory it allocates, and what the process needs for it."""

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
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read at torch's first profile, which would tell of itself on stderr


def seconds_of(call: Callable[[], Any], device: torch.device, *, calls: int = 5, warm_up: int = 1) -> list[float]:
    """Wall time of each of ``calls`` calls, after ``warm_up`` ones; the device has finished each."""
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
    """Seconds that the device takes for each of as many calls as fit in a budget.

    Two calls come first: one to warm up, and one whose time tells how many fit. On CUDA the others follow each other
    without a wait, timed by events, so that the device is idle only where the call cannot feed it fast enough.

    Args:
        call: what to measure.
        device: where it runs.
        budget: seconds for all calls.
        least: calls, even if they take longer than ``budget``;
        most: calls, even if they take less.
        patience: seconds that all calls may take at worst: fewer than ``least`` where these would take longer. If one
            takes that long, the second of the two first calls is the only one.

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
    """One CUDA event between any two calls: what the device does from one to the next is a call's."""
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
    """In place of FlopCounterMode's tracker of modules, whose hooks fail in a reversible stack's backward pass."""

    parents = ("Global",)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class _InsideOperators(TorchDispatchMode):
    """Calls the Python functions of which torch.library.custom_op made operators, so that other modes see inside."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operator = OPDEFS.get(func._schema.name)
        return (func if operator is None else operator._init_fn)(*args, **(kwargs or {}))


def flops_of(call: Callable[[], Any]) -> int:
    """Floating-point operations of a call, backward passes in it included, as torch's FlopCounterMode counts them.

    Those of matrix products, convolutions and scaled_dot_product_attention, a multiplication and an addition being two;
    a causal mask saves none. Triton kernels are not seen.
    """
    aten, counter = torch.ops.aten, FlopCounterMode(display=False)
    formulas = counter.flop_registry  # which lacks the CPU's attention
    for end in ("", "_backward"):
        on_cpu = getattr(aten, f"_scaled_dot_product_flash_attention_for_cpu{end}")
        formulas[on_cpu] = formulas[getattr(aten, f"_scaled_dot_product_flash_attention{end}")]
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    with counter, _InsideOperators():  # type: ignore[no-untyped-call]
        call()
    return counter.get_total_flops()


def allocated_peak(call: Callable[[], Any], device: torch.device) -> int:
    """Bytes that torch's allocator had given out at the worst instant of a call, above what it had before.

    What torch allocates, and nothing else: the same call gives the same number. On a CPU, libraries' own work space is
    not in it (:func:`process_peak` has that), and it is not seen if a call frees what was there before.

    Raises:
        ValueError: neither a CPU nor a CUDA device, so torch does not tell.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        raise ValueError(f"torch does not tell the peak of memory on {device.type}")
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
    """Bytes by which this process grew at the worst instant of a call: the high-water mark of its resident memory.

    All that a call really takes, on a CPU: also what a library allocates by itself, and pages that the allocator does
    not give back. Memory that earlier calls left to the allocator may be reused, and is then not counted; so ask a
    fresh process (:func:`in_fresh_process`), once.

    Returns:
        None where the system, which is not Linux, does not tell.
    """
    if not _CLEAR_REFS.exists():
        call()
        return None
    _CLEAR_REFS.write_text("5")  # the mark starts again from here
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def restart_peak(device: torch.device) -> None:
    """Let :func:`peak_since_restart` start anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR_REFS.exists():
        with contextlib.suppress(OSError):  # some containers forbid it; the peak is then since the process started
            _CLEAR_REFS.write_text("5")


def peak_since_restart(device: torch.device) -> int | None:
    """Bytes at the worst instant since :func:`restart_peak`.

    On CUDA what torch had allocated there; else the whole resident memory of this process, libraries included. None
    where the system does not tell: it is not Linux, or the device has memory of its own and is not CUDA.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM") if device.type == "cpu" and _STATUS.exists() else None


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text())
    assert found is not None  # Linux has told it since long before VmHWM could be reset
    return 1024 * int(found[1])


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)`` in a process of its own, so that no earlier measurement left anything behind.

    It computes with as many threads as this one. Function, arguments and result travel by pickle: give a function of a
    module.

    Raises:
        ChildProcessError: the process was killed. What the function raises comes through.
    """
    threads = (torch.get_num_threads(),)
    context = _context(function.__module__.partition(".")[0])
    with ProcessPoolExecutor(1, mp_context=context, initializer=torch.set_num_threads, initargs=threads) as pool:
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool:
            raise ChildProcessError("the measuring process was killed, perhaps for want of memory") from None


def _context(package: str) -> multiprocessing.context.BaseContext:
    """Of processes that are forked off one which has imported what this one has of a package, and done nothing else."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")  # each imports for seconds
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", *(name for name in sys.modules if name.partition(".")[0] == package)])
    return context


def spread(values: list[float]) -> dict[str, float]:
    """Median, fastest and slowest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def machine(device: torch.device) -> dict[str, str | int]:
    """What measurements were made on."""
    name = processor() if device.type == "cpu" else torch.get_device_module(device).get_device_name(device)
    found = {"device": name, "python": platform.python_version(), "torch": torch.__version__}
    return found | ({"threads": torch.get_num_threads(), "cores": os.cpu_count() or 0} if device.type == "cpu" else {})


def device_title(device: torch.device, processes: int = 1) -> str:
    """The same in a few words, for tables: ``AMD EPYC, 2 threads`` or ``4 x NVIDIA H100``."""
    found = machine(device)
    threads = f", {found['threads']} thread{'s' if found['threads'] != 1 else ''}" if "threads" in found else ""
    return f"{f'{processes} x ' if processes > 1 else ''}{found['device']}{threads}"


def processor() -> str:
    """The CPU's name."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
