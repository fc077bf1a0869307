"""Schema of lra_train.py."""

from typing import ClassVar, Literal

from pydantic import Field

from dl_proj.experiments.long_range.data_settings import LongRangeDataConfig
from dl_proj.experiments.long_range.published import published_rows
from dl_proj.experiments.settings import ExperimentConfig, MonitorMode, SequencePaceConfig
from dl_proj.models.settings import StackConfig
from dl_proj.tables import Row


class SequenceClassifierConfig(StackConfig):
    """A stack of layers on embedded tokens."""

    pooling: Literal["mean", "class_token"] = "mean"
    """what is classified: the mean over all outputs, or the output at a class token, which with lsh attends to only one
    bucket per round"""
    classifier_dim: int | None = Field(None, ge=1)
    """hidden width of the two-layer classifier; null: ffn_dim"""

    def length(self, data: LongRangeDataConfig) -> int:
        """Return the tokens of the longest sequence."""
        return data.max_length + (self.pooling == "class_token")


class LongRangeTrainConfig(ExperimentConfig):
    """Train a classifier of long sequences: a task of the Long Range Arena (Tay et al. 2021)."""

    METRICS: ClassVar[dict[str, MonitorMode]] = {"val/loss": "min", "val/accuracy": "max"}
    LENGTH: ClassVar[str] = "data.max_length"

    task: Literal["long_range"] = "long_range"
    """type of training; fixed"""
    data: LongRangeDataConfig
    """the sequences, chosen by kind"""
    model: SequenceClassifierConfig = SequenceClassifierConfig()
    """the model"""
    train: SequencePaceConfig
    """the pace of training"""

    @property
    def tokens_per_example(self) -> int | None:
        """See ExperimentConfig."""
        return self.model.length(self.data) if self.data.kind in ("image", "pathfinder") else None

    @property
    def table(self) -> str:
        """See ExperimentConfig; accuracies on different tasks are not comparable."""
        return f"{self.task}, {self.data.kind}"

    @property
    def published(self) -> list[Row]:
        """See ExperimentConfig."""
        return published_rows(self.data.kind, (attention.kind for attention in self.model.mechanisms))

    @property
    def default_name(self) -> str:
        """See ExperimentConfig."""
        return f"lra-{self.data.slug}-{self.model.attention_slug}"

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = self.model.mistakes_at(self.model.length(self.data), causal=False, grid=False)
        if self.tokens_per_example is not None:
            if self.train.similar_sizes:
                found.append(
                    f"train.similar_sizes: true has no effect, all sequences of {self.data.kind} are equally long"
                )
        else:  # then a batch's sequences differ in length
            seen = [line for attention in self.model.mechanisms if (line := attention.settings.sees_padding)]
            found += [f"model.attention.{line}" for line in dict.fromkeys(seen)]
        found += super().mistakes()
        n_train = self.data.n_train
        if self.train.length_mistakes():
            return found
        if n_train is not None and self.train.batch_size > n_train:
            return [*found, f"train.batch_size {self.train.batch_size} is more than the {n_train} training examples"]
        if n_train is not None or self.train.max_steps is not None:
            found += self.schedule_mistakes(self.train.steps(n_train or 0))
        return found
