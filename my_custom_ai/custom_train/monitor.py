"""Which evaluation is the best so far, and whether it is time to stop."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal


@dataclass
class Monitor:
    """Follows one metric.

    Args:
        metric: its name in the evaluation's results, such as "val/accuracy".
        mode: "max" if it should rise, "min" if it should fall.
        patience: evaluations without an improvement after which training stops; None never stops it.
        min_delta: an improvement must be larger than this to count against patience. The best is kept regardless.
        target: training also stops once the metric is at least (min: at most) this; None never.

    Raises:
        ValueError: another mode, a patience below 1, a negative min_delta.
    """

    metric: str = "val/loss"
    mode: Literal["max", "min"] = "min"
    patience: int | None = None
    min_delta: float = 0.0
    target: float | None = None
    best: float | None = None
    reference: float | None = None  # what the next value must beat by min_delta
    waited: int = 0

    def __post_init__(self) -> None:
        if self.mode not in ("max", "min"):
            raise ValueError(f"mode of the monitor is {self.mode!r}, must be 'max' or 'min'")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience is {self.patience}, must be 1 or more, or None")
        if not self.min_delta >= 0:
            raise ValueError(f"min_delta is {self.min_delta}, must be 0 or more")

    def check(self, names: Collection[str]) -> None:
        """Make sure that the metric is among the results of an evaluation.

        Raises:
            ValueError: it is not; the message lists what there is.
        """
        if self.metric not in names:
            raise ValueError(f"monitored metric {self.metric!r} is not among {', '.join(sorted(names))}")

    def update(self, metrics: dict[str, float]) -> bool:
        """Take in an evaluation; True if it is the best so far.

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
        """The reason, in words; None: there is none to stop."""
        if self.best is not None and self._reaches_target(self.best):
            return f"{self.metric} has reached the target {self.target}"
        if self.patience is not None and self.waited >= self.patience:
            return f"{self.metric} has not improved in {self.waited} evaluations (patience {self.patience})"
        return None

    def settings(self) -> dict[str, str | float | int | None]:
        """What it was made with."""
        return {name: getattr(self, name) for name in ("metric", "mode", "patience", "min_delta", "target")}

    def state(self) -> dict[str, float | int | None]:
        """What changes during training."""
        return {name: getattr(self, name) for name in ("best", "reference", "waited")}

    def _reaches_target(self, value: float) -> bool:
        if self.target is None:
            return False
        return value >= self.target if self.mode == "max" else value <= self.target  # nan reaches nothing

    def _better(self, value: float, than: float | None, by: float) -> bool:
        if math.isnan(value):
            return False
        if than is None:
            return True
        return value > than + by if self.mode == "max" else value < than - by
