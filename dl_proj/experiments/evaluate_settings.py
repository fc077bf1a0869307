"""Schema of evaluate.py."""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from dl_proj.experiments.copy.settings import SynthDataConfig
from dl_proj.experiments.images.settings import ClassifierDataConfig, GeneratorDataConfig
from dl_proj.experiments.language.data_settings import TextDataConfig
from dl_proj.experiments.long_range.data_settings import LongRangeDataConfig
from dl_proj.experiments.translation.data_settings import PairsConfig
from dl_proj.settings.base import Strict
from dl_proj.settings.changes import Changes, changes_to
from dl_proj.settings.help import models_in
from my_custom_ai.custom_train.names import DeviceName

if TYPE_CHECKING:
    DataChanges = Changes
else:
    DataChanges = changes_to(
        SynthDataConfig,
        ClassifierDataConfig,
        GeneratorDataConfig,
        TextDataConfig,
        PairsConfig,
        *models_in(LongRangeDataConfig),
        # these only affect training, or are part of the model
        without=("kind", "task", "n_train", "fresh", "random_shift", "sampling", "tokenizer"),
    )


class EvaluateConfig(Strict):
    """Measure trained models on their test data, or on other data."""

    checkpoint: str | None = Field(None, min_length=1)
    """name of a shipped checkpoint, or a folder: a run, or any folder above several; null: all shipped ones"""
    data: DataChanges = DataChanges()
    """data settings to override, under the training's names, in each model that has them"""
    batch_size: int = Field(100, ge=1)
    """examples per batch"""
    device: DeviceName = "auto"
    """where to compute; auto picks the fastest device available"""
    output_dir: Path = Path("runs/evaluation")
    """folder for evaluation.csv and, in a subfolder per model, confusion matrices"""
