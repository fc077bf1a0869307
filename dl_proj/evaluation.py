"""evaluate.py: the test figures of trained models of any kind, one row each."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from tqdm import tqdm

from dl_proj.checkpoint_folder import config_path, find_checkpoints, read_config, with_root
from dl_proj.configs.classification import ClassifierTrainConfig
from dl_proj.configs.evaluation import EvaluateConfig
from dl_proj.configs.generation import GeneratorTrainConfig
from dl_proj.configs.language import LanguageTrainConfig
from dl_proj.configs.load import ConfigError, read_yaml, shown
from dl_proj.configs.synth import SynthTrainConfig
from dl_proj.configs.training import ExperimentConfig
from dl_proj.configs.translation import TranslationTrainConfig
from dl_proj.experiment import Experiment
from dl_proj.tables import csv_text, markdown
from dl_proj.tasks.classifier_training import classification_experiment, leave_confusion, train_classifier
from dl_proj.tasks.copy_training import copy_experiment, train_to_copy
from dl_proj.tasks.generator_training import generation_experiment, train_generator
from dl_proj.tasks.language_training import language_experiment, train_language_model
from dl_proj.tasks.translation_training import train_translator, translation_experiment
from my_custom_ai.custom_train import CheckpointError, RunDirectory, evaluate, load_weights, start
from my_custom_ai.custom_train.checkpoint import count_parameters
from my_custom_ai.custom_train.data import evaluation_batches
from my_custom_ai.utils.files import write_text


@dataclass(frozen=True)
class Kind:
    """What is needed to train one kind of model and to measure it."""

    schema: type[ExperimentConfig]
    experiment: Callable[..., Experiment]  # of a configuration; and of text, of the folder with its tokenizer
    train: Callable[[ExperimentConfig, RunDirectory | None], None]
    of_text: bool = False


KINDS = {
    "copy": Kind(SynthTrainConfig, copy_experiment, train_to_copy),
    "classification": Kind(ClassifierTrainConfig, classification_experiment, train_classifier),
    "generation": Kind(GeneratorTrainConfig, generation_experiment, train_generator),
    "language": Kind(LanguageTrainConfig, language_experiment, train_language_model, of_text=True),
    "translation": Kind(TranslationTrainConfig, translation_experiment, train_translator, of_text=True),
}


def evaluate_checkpoints(config: EvaluateConfig) -> None:
    """Measure one model, or all below a folder; print a table and write evaluation.csv.

    Raises:
        ConfigError: after all others are measured, if some could not be: a line or more for each of those.
    """
    folders = find_checkpoints(config.checkpoint)
    accelerator = start(config.device)
    rows, mistakes = [], []
    for name, folder in tqdm(folders.items(), unit="model", desc="evaluation", disable=len(folders) == 1):
        try:
            rows.append({"checkpoint": name} | _measure(name, folder, config, accelerator))
        except (ConfigError, CheckpointError) as error:
            mistakes += str(error).splitlines()
    if rows:
        path = config.output_dir / "evaluation.csv"
        write_text(path, csv_text(rows))
        print(markdown(rows))
        print(f"written: {path}")
    if mistakes:
        raise ConfigError(*mistakes)


def _measure(name: str, folder: Path, config: EvaluateConfig, accelerator: Accelerator) -> dict[str, object]:
    """One model's row."""
    kind = _kind(folder)
    trained = with_root(read_config(kind.schema, folder), config.data_root)
    experiment = kind.experiment(trained, folder) if kind.of_text else kind.experiment(trained)
    load_weights(folder / "model.safetensors", experiment.model)
    model = experiment.model.to(accelerator.device)
    batches = evaluation_batches(experiment.test_data, batch_size=config.batch_size)
    figures = evaluate(model, experiment.task, batches, accelerator)
    if isinstance(trained, ClassifierTrainConfig):
        figures |= leave_confusion(
            experiment, config.output_dir / name.lstrip("./"), batch_size=config.batch_size, device=accelerator.device
        )
    return {
        "task": trained.task,
        "attention": trained.model.attention_title,
        "parameters": count_parameters(model),
        "training seconds": _training_seconds(folder),
    } | figures


def _kind(folder: Path) -> Kind:
    path = config_path(folder)
    task = read_yaml(path).get("task")
    if not isinstance(task, str) or task not in KINDS:
        raise ConfigError(f"{path}: task: must be one of {', '.join(KINDS)} (got {shown(task)})")
    return KINDS[task]


def _training_seconds(folder: Path) -> float | None:
    path = config_path(folder).with_name("metrics.json")
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("seconds")
    except (ValueError, AttributeError):
        raise CheckpointError(f"{path}: not the figures of a training") from None
