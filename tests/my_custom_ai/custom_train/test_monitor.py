import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from my_custom_ai.custom_train.monitor import Monitor

values = st.lists(st.floats(allow_infinity=False, width=16) | st.just(math.nan), max_size=20)


def follow(monitor, seen):
    """Which of the values were the best so far, up to where it stops."""
    improved = []
    for value in seen:
        if monitor.stopped:
            break
        improved.append(monitor.update({"m": value, "other": -value}))
    return improved


@given(seen=values, mode=st.sampled_from(["max", "min"]))
def test_best_is_the_extreme_so_far_and_never_nan(seen, mode):
    extreme, nothing = (max, -math.inf) if mode == "max" else (min, math.inf)
    monitor = Monitor("m", mode)
    best = [extreme([v for v in seen[:i] if not math.isnan(v)], default=nothing) for i in range(len(seen) + 1)]
    assert follow(monitor, seen) == [before != after for before, after in itertools.pairwise(best)]
    assert monitor.best == (best[-1] if math.isfinite(best[-1]) else None)


@pytest.mark.parametrize(
    ("settings", "seen", "stops_after"),
    [
        ({"patience": 2}, [3, 2, 2, 1, 1, 1, 0], 6),  # an equal value is no improvement
        ({"patience": 1}, [3, 2, 1], None),
        ({"patience": 2, "mode": "max"}, [1, 2, 1, 2, 9], 4),
        ({"patience": 2}, [3, math.nan, math.nan, 1], 3),
        ({"patience": 2, "min_delta": 0.5}, [3, 2.9, 2.6, 2.4], 3),
        ({"patience": 2, "min_delta": 0.5}, [3, 2.75, 2.25, 2.0, 1.5], None),  # small steps add up to a large one
        ({"patience": 1, "min_delta": 0.5}, [3, 2.5], 2),  # not larger than min_delta
        ({"target": 1}, [3, 1, 0], 2),
        ({"target": 1}, [3, 1.01, 0.5, 7], 3),
        ({"target": 1, "mode": "max"}, [0, 0.99, 1], 3),
        ({"target": 1}, [math.nan, math.nan], None),
        ({"target": 1, "mode": "max"}, [math.nan, math.nan], None),
        ({}, [1] * 50, None),
    ],
)
def test_stops_after(settings, seen, stops_after):
    monitor = Monitor("m", **settings)
    improved = follow(monitor, seen)
    assert (len(improved) if monitor.stopped else None) == stops_after


def test_small_improvements_are_kept_though_they_do_not_count_against_patience():
    monitor = Monitor("m", "max", patience=3, min_delta=1.0)
    assert follow(monitor, [1.0, 1.5, 1.9]) == [True, True, True]
    assert (monitor.best, monitor.waited) == (1.9, 2)


@given(seen=values, cut=st.integers(0, 20))
def test_a_monitor_with_restored_state_goes_on_as_if_never_stopped(seen, cut):
    settings = {"patience": 3, "min_delta": 0.25, "target": -5.0}
    whole, first, second = (Monitor("m", **settings) for _ in range(3))
    expected = follow(whole, seen)
    start = follow(first, seen[:cut])
    for name, value in json.loads(json.dumps(first.state())).items():
        setattr(second, name, value)
    assert start + follow(second, seen[cut:]) == expected
    assert second == whole


def test_an_unknown_metric_is_named():
    with pytest.raises(ValueError, match=r"'val/los' is not among val/accuracy, val/loss"):
        Monitor("val/los").update({"val/loss": 1.0, "val/accuracy": 0.0})


@pytest.mark.parametrize(
    "settings", [{"mode": "lowest"}, {"patience": 0}, {"min_delta": -0.1}, {"min_delta": math.nan}]
)
def test_settings_without_a_meaning_are_refused(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=name):
        Monitor(**settings)
