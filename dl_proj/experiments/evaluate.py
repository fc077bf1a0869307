"""evaluate.py: the test figures of trained models of any task, one row each."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from dl_proj.checkpoint_folder import SHIPPED, config_path, find_checkpoints, read_config
from dl_proj.experiments.evaluate_settings import EvaluateConfig
from dl_proj.experiments.experiment import WITH_INTERVALS
from dl_proj.experiments.images.classification.settings import ClassifierTrainConfig
from dl_proj.experiments.images.classification.train import leave_confusion
from dl_proj.experiments.registry import ExperimentType, experiment_type
from dl_proj.settings.errors import ConfigError
from dl_proj.settings.help import models_in
from dl_proj.settings.read_yaml import read_yaml
from dl_proj.tables import Row, csv_text, markdown, with_intervals
from my_custom_ai.custom_train import CheckpointError, evaluate, load_weights, start
from my_custom_ai.custom_train.checkpoint import count_parameters
from my_custom_ai.custom_train.data import evaluation_batches
from my_custom_ai.custom_train.errors import NonFinite
from my_custom_ai.custom_train.run_directory import read_figures
from my_custom_ai.utils.files import write_text


def evaluate_checkpoints(config: EvaluateConfig) -> None:
    """Measure one model, or all below a folder; print a table for each task and write evaluation.csv.

    Raises:
        ConfigError: some models could not be measured; raised after all others were.
        NonFinite: likewise, if the only problem is that models return nan or infinity.
    """
    folders = find_checkpoints(config.checkpoint or str(SHIPPED))
    accelerator = start(config.device)
    rows: list[Row] = []
    mistakes: list[str] = []
    broken: list[str] = []
    changes, known = config.data.given, set[str]()
    try:
        for name, folder in tqdm(folders.items(), unit="model", desc="evaluation", disable=len(folders) == 1):
            try:
                kind = _experiment_type(folder)
                own = {key: value for key, value in changes.items() if key in _data_settings(kind)}
                known |= own.keys()
                trained = read_config(kind.schema, folder, own)
                rows.append({"checkpoint": name} | _measure(name, folder, trained, config, accelerator))
            except (ConfigError, CheckpointError) as error:
                mistakes += str(error).splitlines()
            except NonFinite as error:
                broken.append(f"{name}: {error}")
    finally:  # print what was measured even after a full disk or an interrupt
        for task in dict.fromkeys(row.get("task") for row in rows):
            print(markdown([with_intervals(row) for row in rows if row.get("task") == task]), end="\n\n")
    mistakes += [
        f"data.{key}: no such setting in the data of {config.checkpoint or SHIPPED}" for key in changes.keys() - known
    ]
    if rows:
        path = config.output_dir / "evaluation.csv"
        write_text(path, csv_text(rows))
        print(f"written: {path}")
    if mistakes:
        raise ConfigError(*dict.fromkeys(mistakes + broken))  # the same missing data is reported once
    if broken:
        raise NonFinite("; ".join(broken))


def _experiment_type(folder: Path) -> ExperimentType[Any]:
    path = config_path(folder)
    return experiment_type(read_yaml(path).get("task"), path)


def _data_settings(kind: ExperimentType[Any]) -> set[str]:
    """Return the names of the data settings of such models."""
    members = models_in(kind.schema.model_fields["data"].annotation)
    return {name for member in members for name in member.model_fields}


def _measure(name: str, folder: Path, trained: Any, config: EvaluateConfig, accelerator: Accelerator) -> Row:
    """Measure one model and return its row."""
    kind = _experiment_type(folder)
    experiment = kind.experiment(trained, folder) if kind.of_text else kind.experiment(trained)
    load_weights(folder / "model.safetensors", experiment.model)
    model = experiment.model.to(accelerator.device)
    batches = evaluation_batches(experiment.test_data, batch_size=config.batch_size)
    figures = evaluate(model, experiment.objective, batches, accelerator, intervals=WITH_INTERVALS, finite=True)
    if isinstance(trained, ClassifierTrainConfig):
        figures |= leave_confusion(
            experiment, config.output_dir / name.lstrip("./"), batch_size=config.batch_size, device=accelerator.device
        )
    return {
        "task": trained.table,
        "attention": trained.model.attention_title,
        "parameters": count_parameters(model),
        "training seconds": _training_seconds(folder),
    } | figures


def _training_seconds(folder: Path) -> float | None:
    path = config_path(folder).with_name("metrics.json")
    return read_figures(path).get("seconds") if path.is_file() else None
