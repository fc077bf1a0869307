import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from my_custom_ai.utils.meters import Meter, Ratio


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), as_tensor=st.booleans())
def test_mean_weighs_examples_not_batches(sizes, as_tensor):
    generator = torch.Generator().manual_seed(sum(sizes))
    batches = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    meter = Meter()
    for batch in batches:
        count = torch.tensor(len(batch)) if as_tensor else len(batch)
        meter.add({"m": Ratio(batch.sum(), count), "one": Ratio(batch.sum() * 0 + 2, 1)})
    assert meter.means() == {"m": pytest.approx(torch.cat(batches).mean().item(), abs=1e-12), "one": 2}


def test_a_long_sum_of_float32_loses_nothing():
    meter = Meter()
    meter.add({"m": Ratio(torch.tensor(2.0**25), 1)})
    for _ in range(8):
        meter.add({"m": Ratio(torch.tensor(1.0), 0)})
    assert meter.means()["m"] == 2**25 + 8


def test_nothing_counted_is_nan_and_a_metric_may_be_missing_in_a_batch():
    meter = Meter()
    meter.add({"a": Ratio(torch.tensor(0.0), 0), "b": Ratio(torch.tensor(3.0), 2)})
    meter.add({"b": Ratio(torch.tensor(3.0), 1)})
    means = meter.means()
    assert math.isnan(means["a"]) and means["b"] == 2
    meter.reset()
    assert meter.means() == {}


def test_adding_keeps_no_graph_and_counts_of_booleans_work():
    x = torch.ones(3, requires_grad=True)
    meter = Meter()
    meter.add({"loss": Ratio(x.sum(), 3), "right": Ratio((x > 0).sum(), 3)})
    assert not meter.sums()["loss"].requires_grad
    assert meter.means() == {"loss": 1, "right": 1}


@pytest.mark.parametrize("count", [0, torch.tensor(0)])
def test_a_ratio_of_nothing_is_0_with_a_gradient_of_0(count):
    x = torch.ones(3, requires_grad=True)
    value = Ratio((x * 0).sum(), count).value
    value.backward()
    assert value.item() == 0 and torch.equal(x.grad, torch.zeros(3))


def test_a_ratio_s_gradient_is_the_mean_s():
    x = torch.tensor([1.0, 5.0], requires_grad=True)
    Ratio(x.sum(), torch.tensor(2)).value.backward()
    assert x.grad.tolist() == [0.5, 0.5]


class CopiesFromTheHost(TorchDispatchMode):
    """Counts them; each would make the host wait until the device has done all that it was given."""

    n = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        out = operator(*args, **(kwargs or {}))
        if operator._schema.name == "aten::_to_copy":
            self.n += args[0].device.type == "cpu" and out.device.type == "cuda"
        return out


def test_adding_copies_nothing_to_a_gpu():
    with FakeTensorMode():
        total, count = torch.empty((), device="cuda"), torch.empty((), dtype=torch.int64, device="cuda")
        with CopiesFromTheHost() as copies:
            Meter().add({"loss": Ratio(total, 32), "accuracy": Ratio(total, count)})
            assert copies.n == 0
            torch.as_tensor(32, device="cuda")
            assert copies.n == 1, "it sees them"
