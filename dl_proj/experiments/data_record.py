"""A record of a run's data, so that it is only resumed on the same data."""

import json
from typing import TYPE_CHECKING, Any

from dl_proj.settings.errors import ConfigError
from my_custom_ai.custom_train import RunDirectory
from my_custom_ai.custom_train.data import length_of
from my_custom_ai.utils.files import write_text

if TYPE_CHECKING:
    from dl_proj.experiments.experiment import Experiment

RECORD = "data.json"
_PARTS = ("training data", "validation data", "test data")


def check_record(experiment: "Experiment", run: RunDirectory) -> None:
    """Check that a resumed run has the same classes, tokenizers and examples as at its start.

    Raises:
        ConfigError: one line per difference.
    """
    path = run.path / RECORD
    if not path.is_file():
        return
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError):
        raise ConfigError(f"{path}: damaged: not a record of a run's data") from None
    lines = [
        f"{path}: {key}: the run has {_described(before.get(key))}, now it is {_described(value)}"
        for key, value in _record(experiment).items()
        if before.get(key) != value
    ]
    if lines:
        advice = "restore the old data, or start a new run, perhaps with --init_from"
        raise ConfigError(*(f"--resume: {line}; {advice}" for line in lines))


def write_record(experiment: "Experiment", run: RunDirectory) -> None:
    """Write the record into a run's folder."""
    write_text(run.path / RECORD, json.dumps(_record(experiment), indent=2) + "\n")


def _record(experiment: "Experiment") -> dict[str, Any]:
    parts = (experiment.train_data, experiment.val_data, experiment.test_data)
    record: dict[str, Any] = {title: _part(data, title) for title, data in zip(_PARTS, parts, strict=True)}
    if experiment.classes:
        record["classes"] = list(experiment.classes)
    if experiment.tokenizer is not None:
        record["tokenizer"] = experiment.tokenizer.digest
    return record


def _part(data: Any, title: str) -> dict[str, Any]:
    part = {"examples": length_of(data, title), "digest": getattr(data, "digest", None)}
    skipped = getattr(data, "skipped", ())
    return part | {"skipped": len(skipped)} if skipped else part


def _described(value: Any) -> str:
    if isinstance(value, dict):
        left_out = f", {value['skipped']} more left out" if value.get("skipped") else ""
        return f"{value.get('examples')} examples of digest {str(value.get('digest'))[-12:]}{left_out}"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
