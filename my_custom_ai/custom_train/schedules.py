"""Learning-rate schedules: functions from the step to a factor of the optimiser's learning rate.

They have no state, so a resumed run needs only the number of its step.
"""

import math
from collections.abc import Callable

Schedule = Callable[[int], float]  # step (0 for the first update) -> factor


def constant(warmup_steps: int = 0) -> Schedule:
    """Linear warm-up to 1, then constant."""
    return lambda step: _warm_up(step, warmup_steps)


def warmup_cosine(total_steps: int, warmup_steps: int = 0, final_factor: float = 0.0) -> Schedule:
    """Linear warm-up to 1, then half a cosine down to ``final_factor`` at the last step."""

    def factor(step: int) -> float:
        done = _progress(step - warmup_steps, total_steps - warmup_steps)
        return _warm_up(step, warmup_steps) * _cosine(1.0, final_factor, done)

    return factor


def warmup_linear(total_steps: int, warmup_steps: int = 0, final_factor: float = 0.0) -> Schedule:
    """Linear warm-up to 1, then linearly down to ``final_factor`` at the last step."""

    def factor(step: int) -> float:
        done = _progress(step - warmup_steps, total_steps - warmup_steps)
        return _warm_up(step, warmup_steps) * (1 + (final_factor - 1) * done)

    return factor


def one_cycle(
    total_steps: int, warmup_share: float = 0.3, start_divisor: float = 25.0, final_divisor: float = 1e4
) -> Schedule:
    """Half a cosine from 1 / start_divisor up to 1, then half a cosine down to 1 / (start_divisor * final_divisor).

    Smith and Topin 2018, in the two-phase cosine form of PyTorch's OneCycleLR; the optimiser's learning rate
    corresponds to ``max_lr``.
    """
    peak = warmup_share * total_steps - 1
    lowest = 1 / start_divisor

    def factor(step: int) -> float:
        if step <= peak:
            return _cosine(lowest, 1.0, step / peak if peak > 0 else 1.0)
        return _cosine(1.0, lowest / final_divisor, _progress(step - peak, total_steps - peak))

    return factor


def noam(dim: int, warmup_steps: int = 4000) -> Schedule:
    """dim^-0.5 min(t^-0.5, t warmup^-1.5) at update t = step + 1 (Vaswani et al. 2017, equation 3).

    It is the learning rate itself, so set that of the optimiser to 1.
    """

    def factor(step: int) -> float:
        t = step + 1
        return dim**-0.5 * min(t**-0.5, t * max(warmup_steps, 1) ** -1.5)

    return factor


def _warm_up(step: int, warmup_steps: int) -> float:
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def _progress(step: float, steps: float) -> float:
    """Fraction from 0 at step 0 to 1 at the last of ``steps``."""
    return min(1.0, max(0.0, step / (steps - 1))) if steps > 1 else float(step >= 0)


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
