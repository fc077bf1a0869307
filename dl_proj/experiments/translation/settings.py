"""Schemas of translation_train.py, translation_evaluate.py and translate.py."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from dl_proj.experiments.settings import ExperimentConfig, MonitorMode, TranslationPaceConfig
from dl_proj.experiments.translation.data_settings import PairsConfig
from dl_proj.models.settings import EncoderDecoderConfig
from dl_proj.settings.base import Strict
from dl_proj.settings.changes import Changes, changes_to
from my_custom_ai.custom_train.names import DeviceName

if TYPE_CHECKING:
    DataChanges = Changes
else:
    DataChanges = changes_to(PairsConfig, without=("tokenizer", "max_length"))  # parts of the model


class TranslationTrainConfig(ExperimentConfig):
    """Train an encoder-decoder to translate sentences."""

    METRICS: ClassVar[dict[str, MonitorMode]] = {
        "val/loss": "min",
        "val/perplexity": "min",
        "val/accuracy": "max",
        "val/bits_per_byte": "min",
        "val/bleu": "max",
    }
    LENGTH: ClassVar[str] = "data.max_length"

    task: Literal["translation"] = "translation"
    """type of training; fixed"""
    data: PairsConfig
    """the sentence pairs"""
    model: EncoderDecoderConfig = EncoderDecoderConfig()
    """the model"""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """fraction of each training target's probability that is spread evenly over all symbols (Szegedy et al. 2016)"""
    train: TranslationPaceConfig
    """the pace of training"""

    @property
    def default_name(self) -> str:
        """See ExperimentConfig."""
        attention = self.model.attention_slug
        return f"translation-{self.data.corpus.slug}" + (f"-{attention}" if attention else "")

    def mistakes(self) -> list[str]:
        """See Strict."""
        length = self.data.max_length
        found = self.model.mistakes_at(length, length) + self.model.mistakes_in_translation() + super().mistakes()
        if self.model.tied and not self.data.tokenizer.joint:
            found.append("model.tied: true needs one vocabulary for both languages: data.tokenizer.joint: true")
        if self.train.batch_tokens < length:
            found.append(
                f"train.batch_tokens {self.train.batch_tokens} must be at least data.max_length {length}, so that the "
                "longest pair fits a batch"
            )
        if self.train.max_steps is not None:  # with epochs, it depends on the number of training pairs
            found += self.schedule_mistakes(self.train.max_steps)
        return found


class TranslatingConfig(Strict):
    """Settings of translating with a trained model."""

    checkpoint: str = Field(min_length=1)
    """name of a shipped checkpoint, or folder of a run of translation_train.py"""
    beam_size: int = Field(4, ge=1)
    """hypotheses kept at each step; 1: greedy"""
    length_penalty: float = Field(0.6, ge=0)
    """alpha of Wu et al. (2016), equation 14: larger values prefer longer translations; 0: the most probable one"""
    max_length: int | None = Field(None, ge=2)
    """maximum tokens of a translation, including its end; it is also limited to 50 more than its source; null: as in
    training"""
    batch_size: int = Field(64, ge=1)
    """sentences translated together"""
    device: DeviceName = "auto"
    """where to compute; auto picks the fastest device available"""

    @property
    def search(self) -> dict[str, Any]:
        """The arguments for ``Translator.translate``."""
        return self.model_dump(include={"beam_size", "length_penalty", "max_length", "batch_size"})


class TranslateConfig(TranslatingConfig):
    """Translate sentences: quoted arguments, the lines of a file, or of standard input."""

    input: Path | None = None
    """file to translate, one sentence per line; -, or null without sentences as arguments: standard input"""
    output: Path | None = None
    """file for the translations, one per line; null: print them as soon as their batch is done"""


class TranslationEvaluateConfig(TranslatingConfig):
    """Translate a test set with a trained model and score it against the unmodified references."""

    split: Literal["val", "test"] = "test"
    """which split of the model's corpus to translate"""
    source_file: Path | None = None
    """another file to translate instead, one sentence per line; requires reference_file"""
    reference_file: Path | None = None
    """the reference translations of source_file, line by line"""
    data: DataChanges = DataChanges()
    """data settings to override, under the training's names"""
    bleu_tokenizer: Literal["13a", "intl", "zh", "char", "none"] = "13a"
    """sacrebleu's tokenizer"""
    examples: int = Field(10, ge=0)
    """number of translations to print"""
    output_dir: Path = Path("runs/translation_evaluation")
    """folder for translations.csv and scores.json"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        if (self.source_file is None) != (self.reference_file is None):
            return ["source_file and reference_file are the two sides of one test set: set both or neither"]
        if self.source_file is not None and self.split != "test":
            return [f"split {self.split} has no effect with source_file {self.source_file}"]
        if self.source_file is not None:
            unused = self.data.given.keys() - {"root"}  # root is for the converted pairs
            return [f"data.{name} has no effect with source_file {self.source_file}" for name in sorted(unused)]
        return []
