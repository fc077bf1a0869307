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
    DataChanges = changes_to(PairsConfig, without=("tokenizer", "max_length"))  # which are parts of the model


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
    """what is trained"""
    data: PairsConfig
    """the sentence pairs"""
    model: EncoderDecoderConfig = EncoderDecoderConfig()
    """the model"""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """share of each target's probability that training gives to all symbols alike (Szegedy et al. 2016)"""
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
            found.append("model.tied: true needs data.tokenizer.joint: true: one vocabulary for both languages")
        if self.train.batch_tokens < length:
            found.append(
                f"train.batch_tokens {self.train.batch_tokens} is less than data.max_length {length}: a batch could "
                "not hold a pair so long"
            )
        if self.train.max_steps is not None:  # else it takes the number of training pairs to know
            found += self.schedule_mistakes(self.train.max_steps)
        return found


class TranslatingConfig(Strict):
    """How a trained model translates."""

    checkpoint: str = Field(min_length=1)
    """name of a shipped checkpoint, or folder of a run of translation_train.py"""
    beam_size: int = Field(4, ge=1)
    """hypotheses that are kept at each step; 1: greedy"""
    length_penalty: float = Field(0.6, ge=0)
    """alpha of Wu et al. (2016), equation 14: larger ones prefer longer translations; 0: the most probable"""
    max_length: int | None = Field(None, ge=2)
    """tokens of a translation at most, its end included; it is never longer than its source by more than 50; null: what
    the model was trained on"""
    batch_size: int = Field(64, ge=1)
    """sentences that are translated together"""
    device: DeviceName = "auto"
    """where to compute; auto takes the fastest there is"""

    @property
    def search(self) -> dict[str, Any]:
        """What ``Translator.translate`` takes of this."""
        return self.model_dump(include={"beam_size", "length_penalty", "max_length", "batch_size"})


class TranslateConfig(TranslatingConfig):
    """Translate sentences: arguments in quotes, the lines of a file, or those of standard input."""

    input: Path | None = None
    """text to translate, a sentence a line; - or null, without sentences among the arguments: standard input"""
    output: Path | None = None
    """file for the translations, a line each; null: they are printed, as soon as their batch is done"""


class TranslationEvaluateConfig(TranslatingConfig):
    """Translate a test set with a trained model and score it against the untouched references."""

    split: Literal["val", "test"] = "test"
    """which pairs of the corpus that the model was trained on"""
    source_file: Path | None = None
    """text, a sentence a line, to translate instead; with reference_file"""
    reference_file: Path | None = None
    """its translations, line by line"""
    data: DataChanges = DataChanges()
    """settings of the pairs, as the training has them: where they are now, or other ones"""
    bleu_tokenizer: Literal["13a", "intl", "zh", "char", "none"] = "13a"
    """how sacrebleu finds words"""
    examples: int = Field(10, ge=0)
    """translations to print"""
    output_dir: Path = Path("runs/translation_evaluation")
    """where translations.csv and scores.json go"""

    def mistakes(self) -> list[str]:
        """See Strict."""
        if (self.source_file is None) != (self.reference_file is None):
            return ["source_file and reference_file are the two sides of one test set: give both or none"]
        if self.source_file is not None and self.split != "test":
            return [f"split {self.split} has no effect: source_file is {self.source_file}"]
        if self.source_file is not None:
            idle = self.data.given.keys() - {"root"}  # where the converted pairs go
            return [f"data.{name} has no effect: source_file is {self.source_file}" for name in sorted(idle)]
        return []
