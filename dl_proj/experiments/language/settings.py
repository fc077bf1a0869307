"""Schemas of lm_train.py and lm_generate.py."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dl_proj.experiments.language.data_settings import TextDataConfig, WordPieceConfig
from dl_proj.experiments.settings import ExperimentConfig, MonitorMode, TrainConfig
from dl_proj.models.settings import LanguageModelConfig
from dl_proj.settings.base import Strict
from my_custom_ai.custom_train.names import DeviceName


class CausalConfig(Strict):
    """Predict each token from earlier ones."""

    kind: Literal["causal"] = "causal"
    """training objective"""


class MaskedConfig(Strict):
    """Predict masked tokens from those on both sides (Devlin et al. 2019, section 3.1)."""

    kind: Literal["masked"] = "masked"
    """training objective"""
    share: float = Field(0.15, gt=0, lt=1)
    """masked: fraction of the tokens to predict; of these, 80 % are masked, 10 % replaced, 10 % kept"""
    whole_word: bool = False
    """masked: choose whole words instead of single tokens"""


ObjectiveConfig = Annotated[CausalConfig | MaskedConfig, Field(discriminator="kind")]


class LanguageTrainConfig(ExperimentConfig):
    """Train a language model: a causal one, which continues text, or a masked one, which uses context on both sides."""

    METRICS: ClassVar[dict[str, MonitorMode]] = {"val/loss": "min", "val/perplexity": "min", "val/accuracy": "max"}
    LENGTH: ClassVar[str] = "data.window"

    task: Literal["language"] = "language"
    """type of training; fixed"""
    objective: ObjectiveConfig = CausalConfig()
    """the training objective, chosen by kind"""
    data: TextDataConfig
    """the text"""
    model: LanguageModelConfig = LanguageModelConfig()
    """the model"""
    train: TrainConfig
    """the pace of training"""

    @property
    def causal(self) -> bool:
        """Whether the model is causal, so it can continue text."""
        return isinstance(self.objective, CausalConfig)

    @property
    def metrics(self) -> dict[str, MonitorMode]:
        """See ExperimentConfig; a masked model has no likelihood of the text, so no bits per byte."""
        return self.METRICS | ({"val/bits_per_byte": "min"} if self.causal else {})

    @property
    def tokens_per_example(self) -> int:
        """See ExperimentConfig."""
        return self.data.window

    @property
    def default_name(self) -> str:
        """See ExperimentConfig."""
        return f"{'lm' if self.causal else 'mlm'}-{self.data.slug}-{self.model.attention_slug}"

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = self.model.mistakes_at(self.data.window, causal=self.causal, grid=False) + super().mistakes()
        if self.train.max_steps is not None:  # with epochs, it depends on the number of training windows
            found += self.schedule_mistakes(self.train.max_steps)
        if self.causal and isinstance(self.data.tokenizer, WordPieceConfig):
            found.append(
                "data.tokenizer.kind: wordpiece loses white space, so a causal model could not reproduce text, and "
                "bits per byte would be wrong; use bpe or bytes, or objective.kind: masked"
            )
        return found


class ContinueTextConfig(Strict):
    """Continue a text with a causal language model."""

    checkpoint: str = Field(min_length=1)
    """name of a shipped checkpoint, or folder of a run of lm_train.py"""
    prompt: str = Field("It was", min_length=1)
    """text to continue; - reads it from standard input"""
    length: int = Field(400, ge=1)
    """tokens to generate"""
    samples: int = Field(1, ge=1)
    """number of continuations"""
    temperature: float = Field(1.0, gt=0)
    """below 1: more probable tokens; above 1: more variety"""
    top_k: int | None = Field(None, ge=1)
    """sample from only the k most probable tokens; 1: always the most probable; null: from all"""
    top_p: float = Field(1.0, gt=0, le=1)
    """sample from the smallest set of tokens with at least this probability"""
    seed: int = Field(0, ge=0, lt=2**31)
    """seed of the sampling: the same seed gives the same text"""
    device: DeviceName = "auto"
    """where to compute; auto picks the fastest device available"""
