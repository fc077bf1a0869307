"""Schemas of lm_train.py and lm_generate.py."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dl_proj.experiments.language.data_settings import TextDataConfig, WordPieceConfig
from dl_proj.experiments.settings import ExperimentConfig, MonitorMode, TrainConfig
from dl_proj.models.settings import LanguageModelConfig
from dl_proj.settings.base import Strict
from my_custom_ai.custom_train.names import DeviceName


class CausalConfig(Strict):
    """Predict each token from those before it."""

    kind: Literal["causal"] = "causal"
    """what is learned"""


class MaskedConfig(Strict):
    """Fill in tokens that are hidden, from those on both sides (Devlin et al. 2019, section 3.1)."""

    kind: Literal["masked"] = "masked"
    """what is learned"""
    share: float = Field(0.15, gt=0, lt=1)
    """masked: share of the tokens that are to be filled in; of these, 80 % are masked, 10 % replaced, 10 % kept"""
    whole_word: bool = False
    """masked: hide all tokens of a word or none"""


ObjectiveConfig = Annotated[CausalConfig | MaskedConfig, Field(discriminator="kind")]


class LanguageTrainConfig(ExperimentConfig):
    """Train a language model: a causal one, that continues text, or a masked one, that looks both ways."""

    METRICS: ClassVar[dict[str, MonitorMode]] = {"val/loss": "min", "val/perplexity": "min", "val/accuracy": "max"}
    LENGTH: ClassVar[str] = "data.window"

    task: Literal["language"] = "language"
    """what is trained"""
    objective: ObjectiveConfig = CausalConfig()
    """what is learned, chosen by kind"""
    data: TextDataConfig
    """the text"""
    model: LanguageModelConfig = LanguageModelConfig()
    """the model"""
    train: TrainConfig
    """the pace of training"""

    @property
    def causal(self) -> bool:
        """Whether the model continues text."""
        return isinstance(self.objective, CausalConfig)

    @property
    def metrics(self) -> dict[str, MonitorMode]:
        """See ExperimentConfig; what a masked model says of hidden bytes is no likelihood of the text."""
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
        if self.train.max_steps is not None:  # else it takes the number of training windows to know
            found += self.schedule_mistakes(self.train.max_steps)
        if self.causal and isinstance(self.data.tokenizer, WordPieceConfig):
            found.append(
                "data.tokenizer.kind: wordpiece loses white space, so a causal model could not write the text, nor "
                "would bits per byte be the text's; use bpe or bytes, or objective.kind: masked"
            )
        return found


class ContinueTextConfig(Strict):
    """Let a causal language model continue a text."""

    checkpoint: str = Field(min_length=1)
    """name of a shipped checkpoint, or folder of a run of lm_train.py"""
    prompt: str = Field("It was", min_length=1)
    """text to continue; - reads it from standard input"""
    length: int = Field(400, ge=1)
    """tokens to add"""
    samples: int = Field(1, ge=1)
    """continuations"""
    temperature: float = Field(1.0, gt=0)
    """below 1: more probable tokens; above 1: more variety"""
    top_k: int | None = Field(None, ge=1)
    """draw from so many most probable tokens; 1: always the most probable; null: all"""
    top_p: float = Field(1.0, gt=0, le=1)
    """draw from the smallest set of tokens with at least this probability"""
    seed: int = Field(0, ge=0, lt=2**31)
    """of the draws: the same seed gives the same text"""
    device: DeviceName = "auto"
    """where to compute; auto takes the fastest there is"""
