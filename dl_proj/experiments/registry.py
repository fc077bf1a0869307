"""The types of experiments: their settings, and the functions that build, train and load them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from dl_proj.experiments.copy.copier import load_copier
from dl_proj.experiments.copy.settings import SynthTrainConfig
from dl_proj.experiments.copy.train import copy_experiment, train_to_copy
from dl_proj.experiments.experiment import Experiment
from dl_proj.experiments.images.classification.classifier import load_classifier
from dl_proj.experiments.images.classification.settings import ClassifierTrainConfig
from dl_proj.experiments.images.classification.train import classification_experiment, train_classifier
from dl_proj.experiments.images.generation.generator import load_generator
from dl_proj.experiments.images.generation.settings import GeneratorTrainConfig
from dl_proj.experiments.images.generation.train import generation_experiment, train_generator
from dl_proj.experiments.language.settings import LanguageTrainConfig
from dl_proj.experiments.language.text_model import load_text_model
from dl_proj.experiments.language.train import language_experiment, train_language_model
from dl_proj.experiments.long_range.reader import load_reader
from dl_proj.experiments.long_range.settings import LongRangeTrainConfig
from dl_proj.experiments.long_range.train import long_range_experiment, train_long_range
from dl_proj.experiments.settings import ExperimentConfig
from dl_proj.experiments.trained import Trained
from dl_proj.experiments.translation.settings import TranslationTrainConfig
from dl_proj.experiments.translation.train import train_translator, translation_experiment
from dl_proj.experiments.translation.translator import load_translator
from dl_proj.settings.errors import ConfigError, shown
from my_custom_ai.custom_train import RunDirectory

_Config = TypeVar("_Config", bound=ExperimentConfig)


@dataclass(frozen=True)
class ExperimentType(Generic[_Config]):
    """What is needed to train, measure and load one type of model."""

    schema: type[_Config]
    experiment: Callable[..., Experiment]  # takes a configuration and, if of_text, the folder with the tokenizer
    train: Callable[[_Config, RunDirectory | None], None]
    load: Callable[..., Trained[Any, Any]]  # takes a checkpoint's folder, device and data
    of_text: bool = False


EXPERIMENT_TYPES: dict[str, ExperimentType[Any]] = {
    "copy": ExperimentType(SynthTrainConfig, copy_experiment, train_to_copy, load_copier),
    "classification": ExperimentType(
        ClassifierTrainConfig, classification_experiment, train_classifier, load_classifier
    ),
    "generation": ExperimentType(GeneratorTrainConfig, generation_experiment, train_generator, load_generator),
    "language": ExperimentType(
        LanguageTrainConfig, language_experiment, train_language_model, load_text_model, of_text=True
    ),
    "long_range": ExperimentType(LongRangeTrainConfig, long_range_experiment, train_long_range, load_reader),
    "translation": ExperimentType(
        TranslationTrainConfig, translation_experiment, train_translator, load_translator, of_text=True
    ),
}
"""By the value of ``task`` in their configurations."""


def experiment_type(task: Any, path: Path, hint: str = "") -> ExperimentType[Any]:
    """Return the type of experiment for the ``task`` of the configuration at ``path``.

    Raises:
        ConfigError: there is none; the line ends with ``hint``.
    """
    if not isinstance(task, str) or task not in EXPERIMENT_TYPES:
        raise ConfigError(f"{path}: task: must be one of {', '.join(EXPERIMENT_TYPES)} (got {shown(task)}){hint}")
    return EXPERIMENT_TYPES[task]
