import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from my_custom_ai.custom_train.schedules import constant, noam, one_cycle, warmup_cosine, warmup_linear


@settings(deadline=None)  # the first call of an optimiser takes its time
@given(
    total=st.integers(1, 60),
    warmup=st.floats(0, 0.95),
    start=st.floats(1, 100),
    final=st.floats(1, 1e5),
)
def test_one_cycle_is_torchs_at_every_step(total, warmup, start, final):
    if warmup * total == 1:
        return  # torch divides by zero
    peak = 0.7
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=peak,
        total_steps=total,
        pct_start=warmup,
        div_factor=start,
        final_div_factor=final,
        cycle_momentum=False,
    )
    ours = one_cycle(total, warmup, start, final)
    for step in range(total):
        assert peak * ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-15), step
        optimizer.step()
        if step + 1 < total:
            theirs.step()


def test_one_cycle_where_torch_divides_by_zero_begins_at_its_peak():
    assert one_cycle(10, warmup_share=0.1)(0) == 1


@pytest.mark.parametrize(("dim", "warmup"), [(512, 4000), (16, 1), (64, 7)])
def test_noam_is_the_papers_formula_and_peaks_when_warm(dim, warmup):
    factors = [noam(dim, warmup)(step) for step in range(2 * warmup + 5)]
    for t, factor in enumerate(factors, start=1):
        rising, falling = t / (warmup * math.sqrt(warmup)), 1 / math.sqrt(t)
        assert factor == pytest.approx((rising if t < warmup else falling) / math.sqrt(dim), rel=1e-12)
    assert factors.index(max(factors)) == warmup - 1
    assert max(factors) == pytest.approx(1 / math.sqrt(dim * warmup))


@given(total=st.integers(1, 200), data=st.data(), final=st.floats(0, 1))
def test_warmup_cosine_rises_then_falls_to_its_final_factor(total, data, final):
    warmup = data.draw(st.integers(0, total - 1))
    factors = [warmup_cosine(total, warmup, final)(step) for step in range(total)]
    assert factors[:warmup] == pytest.approx([(step + 1) / warmup for step in range(warmup)])
    falling = factors[warmup:]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] == pytest.approx(final, abs=1e-12)
    if len(falling) > 1:
        assert falling[0] == pytest.approx(1)
        assert falling[len(falling) // 2] == pytest.approx(
            final + (1 - final) * math.cos(math.pi / 2 * (len(falling) // 2) / (len(falling) - 1)) ** 2
        )
        steepest = math.pi / 2 * (1 - final) / (len(falling) - 1)  # slope of half a cosine
        assert all(a - b <= steepest + 1e-12 for a, b in itertools.pairwise(falling))


@pytest.mark.parametrize(("total", "warmup"), [(100, 20), (7, 1), (5, 0), (1, 0)])
def test_warmup_linear_goes_through_its_corners_in_straight_lines(total, warmup):
    factors = [warmup_linear(total, warmup, 0.25)(step) for step in range(total)]
    corners = [(-1, 0.0)] * (warmup > 0) + [(max(warmup, 1) - 1, 1.0)] * (warmup > 0) + [(warmup, 1.0)]
    for (first, start), (last, end) in itertools.pairwise([*corners, (total - 1, 0.25)]):
        for step in range(max(first, 0), last + 1):
            done = (step - first) / (last - first) if last > first else 1.0
            assert factors[step] == pytest.approx(start + (end - start) * done), step
    assert factors[-1] == pytest.approx(0.25)


def test_constant_warms_up_and_stays():
    assert [constant(4)(step) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert [constant()(step) for step in (0, 1, 10**9)] == [1, 1, 1]
