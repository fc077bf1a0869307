"""Costs are those of calls whose cost is known."""

import mmap
import os
import time

import numpy as np
import pytest
import torch

from my_custom_ai.utils import measure
from my_custom_ai.utils.measure import (
    allocated_peak,
    device_title,
    flops_of,
    in_fresh_process,
    machine,
    process_peak,
    seconds_of,
    seconds_within,
    spread,
)

CPU = torch.device("cpu")
KIB, MIB = 2**10, 2**20


def floats(kib):
    return torch.empty(256 * kib)


def test_each_call_has_its_time_and_those_before_have_none(monkeypatch):
    now, lasts = [100.0], iter([50, 40, 1, 2, 3])
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def call():
        now[0] += next(lasts)

    assert seconds_of(call, CPU, calls=3, warm_up=2) == [1, 2, 3]
    assert next(lasts, None) is None


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still but for what a test adds to it, on the host and, by events, on a device."""
    now = [100.0]

    class Event:
        def __init__(self, *, enable_timing):
            assert enable_timing

        def record(self, stream):
            assert stream == "stream"
            self.at = now[0]

        def elapsed_time(self, end):
            return 1000 * (end.at - self.at)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "stream")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    return now


@pytest.mark.parametrize("device", [CPU, torch.device("cuda")])
@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (0.25, 8),  # as many as fit in the budget
        (0.75, 4),  # but 4 at least
        (0.001, 16),  # and 16 at most
        (4.0, 2),  # fewer than 4 where they would take more than the patience
        (9.0, 0),  # where one does, the second call to warm up is all there is
    ],
)
def test_calls_that_fit_are_timed(clock, device, second, expected):
    lasts = [20, second, *(1 + i / 4 for i in range(16))]
    calls = iter(lasts)

    def call():
        clock[0] += next(calls)

    found = seconds_within(call, device, budget=2, least=4, most=16, patience=8)
    assert found == pytest.approx(lasts[2 : 2 + expected] or [9])
    assert len(list(calls)) == 16 - expected


def test_as_many_calls_as_asked_for():
    calls = []
    assert len(seconds_of(lambda: calls.append(1), CPU, calls=4)) == 4
    assert len(calls) == 5
    assert len(seconds_of(lambda: calls.append(1), CPU, calls=2, warm_up=0)) == 2
    assert len(calls) == 7


def kept():
    return [floats(4), floats(8)]


def one_after_the_other():
    for kib in (16, 64, 32):
        floats(kib)


def together():
    first = floats(64)
    second = floats(16)
    del first
    return second, floats(32)


def backward():
    """The square of x is freed last; its gradient and that of the sum meet it."""
    x = torch.ones(256 * 16, requires_grad=True)
    y = x.exp()  # 16 KiB, kept for backward
    del x
    y.backward(floats(8).repeat(2))  # 8 KiB, 16 KiB, and the gradient of x


@pytest.mark.parametrize(
    ("call", "kib"),
    [(kept, 12), (one_after_the_other, 64), (together, 80), (lambda: None, 0), (backward, 16 + 16 + 16 + 16)],
    ids=["kept", "one after the other", "together", "nothing", "backward"],
)
def test_the_allocators_peak_is_known(call, kib):
    assert allocated_peak(call, CPU) == kib * KIB
    assert allocated_peak(call, CPU) == kib * KIB, "and again"


def test_what_was_there_before_does_not_count():
    before = floats(64)
    assert allocated_peak(lambda: floats(16), CPU) == 16 * KIB
    assert before.nbytes == 64 * KIB


def test_a_device_that_does_not_tell():
    with pytest.raises(ValueError, match="memory on meta"):
        allocated_peak(lambda: None, torch.device("meta"))


@torch.library.custom_op("tests::product", mutates_args=())
def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a @ b


def attend(q, k):
    """Attention (2, 3, 5, 8): 2 * 2 * 3 * 5 * 5 * 8 operations for scores, as many for values."""
    return torch.nn.functional.scaled_dot_product_attention(q, k, k)


A, B, Q = torch.ones(3, 4), torch.ones(4, 5), torch.ones(2, 3, 5, 8)


@pytest.mark.parametrize(
    ("call", "flops"),
    [
        (lambda: A + A, 0),
        (lambda: A @ B, 2 * 3 * 4 * 5),
        (lambda: (A.clone().requires_grad_() @ B).sum().backward(), 2 * (2 * 3 * 4 * 5)),
        (lambda: product(A, B), 2 * 3 * 4 * 5),
        (lambda: attend(Q, Q), 2 * (2 * 2 * 3 * 5 * 5 * 8)),
        (lambda: attend(Q.clone().requires_grad_(), Q).sum().backward(), 7 * (2 * 2 * 3 * 5 * 5 * 8)),
    ],
    ids=["none", "a product", "with its gradient", "in an operator", "attention", "with its gradient, recomputed"],
)
def test_operations_are_counted(call, flops):
    """The gradient of attention computes the scores again, and four products more."""
    assert flops_of(call) == flops


def test_profiling_says_nothing(capfd):
    allocated_peak(lambda: floats(1), CPU)
    assert capfd.readouterr() == ("", "")


linux = pytest.mark.skipif(not measure._CLEAR_REFS.exists(), reason="the system does not tell")


def pages(mib):
    """Straight from the system: malloc may have pages left from earlier tests."""
    return np.frombuffer(mmap.mmap(-1, mib * MIB), dtype=np.uint8)


def fill(mib):
    memory = pages(mib)
    memory[:] = 1
    return memory


@linux
def test_the_process_grows_by_what_is_touched():
    assert process_peak(lambda: fill(64)) == pytest.approx(64 * MIB, abs=3 * MIB)
    assert process_peak(lambda: pages(64)) < 3 * MIB, "nothing was written"
    assert process_peak(lambda: fill(32)) == pytest.approx(32 * MIB, abs=3 * MIB), "no peak of before"
    held = fill(48)
    assert process_peak(lambda: fill(32)) == pytest.approx(32 * MIB, abs=3 * MIB), "above what there is"
    assert held.nbytes == 48 * MIB


def test_where_the_system_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "_CLEAR_REFS", tmp_path / "none")
    calls = []
    assert process_peak(lambda: calls.append(1)) is None
    assert calls == [1]


def where(*given):
    return os.getpid(), torch.get_num_threads(), given


@pytest.mark.slow
def test_a_process_of_its_own(forkserver):
    torch.set_num_threads(2)
    process, threads, given = in_fresh_process(where, 1, "a")
    assert process != os.getpid()
    assert threads == 2
    assert given == (1, "a")


@pytest.mark.slow
def test_a_process_that_is_killed(forkserver):
    with pytest.raises(ChildProcessError, match="was killed"):
        in_fresh_process(os._exit, 9)


def test_the_spread():
    assert spread([5.0, 1.0, 9.0, 2.0]) == {"median": 3.5, "min": 1.0, "max": 9.0}


def test_the_machine():
    torch.set_num_threads(2)
    found = machine(CPU)
    assert found["device"]
    assert found["torch"] == torch.__version__
    assert (found["threads"], found["cores"]) == (2, os.cpu_count())
    assert device_title(CPU) == f"{found['device']}, 2 threads"
    assert device_title(CPU, 3).startswith("3 x ")
    torch.set_num_threads(1)
    assert device_title(CPU).endswith(", 1 thread")
