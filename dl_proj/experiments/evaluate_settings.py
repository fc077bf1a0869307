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
        # of training, or a part of the model
        without=("kind", "task", "n_train", "fresh", "random_shift", "sampling", "tokenizer"),
    )


class EvaluateConfig(Strict):
    """Measure trained models on their test data, or on other data."""

    checkpoint: str | None = Field(None, min_length=1)
    """name of a shipped checkpoint, folder of a run, or a folder of them: all below it; null: all shipped ones"""
    data: DataChanges = DataChanges()
    """settings of the data, as the training has them, for each model that has them: where it is now, or other data"""
    batch_size: int = Field(100, ge=1)
    """examples a batch"""
    device: DeviceName = "auto"
    """where to compute; auto takes the fastest there is"""
    output_dir: Path = Path("runs/evaluation")
    """where evaluation.csv goes, and in a folder a model what there is besides figures"""
