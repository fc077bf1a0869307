"""Keeps track of the best evaluation so far, and decides on early stopping."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal


@dataclass
class Monitor:
    """Monitors one metric.

    Args:
        metric: its name in the evaluation's results, such as "val/accuracy".
        mode: "max" if higher is better, "min" if lower is better.
        patience: training stops after this many evaluations without an improvement; None: never.
        min_delta: a smaller improvement does not reset the patience. The best weights are kept regardless.
        target: training also stops once the metric is at least (with mode "min", at most) this; None: never.

    Raises:
        ValueError: an unknown mode, a patience below 1, or a negative min_delta.
    """

    metric: str = "val/loss"
    mode: Literal["max", "min"] = "min"
    patience: int | None = None
    min_delta: float = 0.0
    target: float | None = None
    best: float | None = None
    reference: float | None = None  # the value that the next one must improve on by more than min_delta
    waited: int = 0  # evaluations since the last such improvement

    def __post_init__(self) -> None:
        if self.mode not in ("max", "min"):
            raise ValueError(f"mode of the monitor is {self.mode!r}, must be 'max' or 'min'")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience is {self.patience}, must be at least 1, or None")
        if not self.min_delta >= 0:
            raise ValueError(f"min_delta is {self.min_delta}, must be at least 0")

    def check(self, names: Collection[str]) -> None:
        """Check that the metric is among the results of an evaluation.

        Raises:
            ValueError: it is not; the message lists those that exist.
        """
        if self.metric not in names:
            raise ValueError(f"monitored metric {self.metric!r} is not among {', '.join(sorted(names))}")

    def update(self, metrics: dict[str, float]) -> bool:
        """Process the results of an evaluation; return whether it is the best so far.

        Raises:
            ValueError: the metric is not among the results.
        """
        self.check(metrics)
        value = metrics[self.metric]
        if self._better(value, self.reference, self.min_delta):
            self.reference, self.waited = value, 0
        else:
            self.waited += 1
        improved = self._better(value, self.best, 0.0)
        if improved:
            self.best = value
        return improved

    @property
    def stopped(self) -> bool:
        """Whether patience has run out or the target is reached."""
        return self.why_stopped is not None

    @property
    def why_stopped(self) -> str | None:
        """The reason for stopping, or None to continue."""
        if self.best is not None and self._reaches_target(self.best):
            return f"{self.metric} has reached the target {self.target}"
        if self.patience is not None and self.waited >= self.patience:
            return f"{self.metric} has not improved in {self.waited} evaluations (patience {self.patience})"
        return None

    def settings(self) -> dict[str, str | float | int | None]:
        """The constructor's arguments."""
        return {name: getattr(self, name) for name in ("metric", "mode", "patience", "min_delta", "target")}

    def state(self) -> dict[str, float | int | None]:
        """The fields that change during training."""
        return {name: getattr(self, name) for name in ("best", "reference", "waited")}

    def _reaches_target(self, value: float) -> bool:
        if self.target is None:
            return False
        return value >= self.target if self.mode == "max" else value <= self.target  # False for nan

    def _better(self, value: float, than: float | None, by: float) -> bool:
        if math.isnan(value):
            return False
        if than is None:
            return True
        return value > than + by if self.mode == "max" else value < than - by
