"""Which settings may change when a run is resumed, and which ones a configuration changes."""

from typing import Any, NamedTuple

from pydantic import BaseModel

from dl_proj.settings.errors import shown
from dl_proj.settings.load import differences, load_config
from my_custom_ai.custom_train.run_directory import RunDirectory

_SAME_RESULT = {
    *("train.save_minutes", "train.wait_minutes", "train.device", "train.num_workers", "train.trackers"),
    *("data.streamed", "data.cache", "train.parallel", "model.recompute", "runs_dir"),
}
_OTHER_RESULT = {  # but the same model on the same batches
    *("optimizer.lr", "optimizer.weight_decay"),
    *("train.max_steps", "train.epochs", "train.eval_every", "train.save_every", "train.log_every"),
    *("train.eval_batch_size", "train.clip_norm", "train.precision", "train.matmul_precision"),
    *("train.monitor.patience", "train.monitor.min_delta", "train.monitor.target"),
}
_SCHEDULE = "schedule."  # each kind has settings of its own


class Change(NamedTuple):
    """A setting by its dotted key, with the run's value and the new one."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        """Return the text that users read."""
        return f"{self.key} {shown(self.old)} -> {shown(self.new)}"

    @property
    def keeps_result(self) -> bool:
        """Whether it leaves everything that is computed unchanged."""
        return self.key in _SAME_RESULT

    @property
    def is_allowed(self) -> bool:
        """Whether a run can be resumed with it: it changes neither the model nor the data nor the objective."""
        return self.keeps_result or self.key in _OTHER_RESULT or self.key.startswith(_SCHEDULE)


def changes_of(run: RunDirectory, config: BaseModel) -> list[Change]:
    """Return the settings in which ``config`` differs from the run's file."""
    saved = load_config(type(config), run.config)
    return [Change(*found) for found in differences(saved.model_dump(mode="json"), config.model_dump(mode="json"))]


def other_settings(run: RunDirectory, config: BaseModel) -> list[str]:
    """Return a line for each setting in which ``config`` differs from the run and that affects its result."""
    return [_line(run, change) for change in changes_of(run, config) if not change.keeps_result]


def refused_changes(run: RunDirectory, config: BaseModel) -> list[str]:
    """Return a line for each changed setting that a resumed run must keep."""
    return [_line(run, change) for change in changes_of(run, config) if not change.is_allowed]


def _line(run: RunDirectory, change: Change) -> str:
    return f"{run.config}: {change.key}: the run has {shown(change.old)}, the new value is {shown(change.new)}"
