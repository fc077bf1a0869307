"""Schema of cls_train.py."""

from typing import ClassVar, Literal

from dl_proj.experiments.images.settings import ClassifierDataConfig, ImageTrainConfig
from dl_proj.experiments.settings import MonitorMode
from dl_proj.models.settings import LearnedSinusoidalPositionsConfig, StackConfig


class ClassifierConfig(StackConfig):
    """A stack between embedded patches and logits."""

    pooling: Literal["mean", "class_token"] = "mean"
    """what is classified: the mean over all outputs, or a learned token's; under lsh that sees one bucket a round"""
    embedding: Literal["linear", "mlp", "lookup"] = "linear"
    """of a patch: a linear map of its values, two with a gelu between, or a learned vector for each level (patches of
    one value)"""

    def length(self, data: ClassifierDataConfig) -> int:
        """Tokens of a sequence."""
        return data.length + (self.pooling == "class_token")

    def mistakes_on(self, data: ClassifierDataConfig) -> list[str]:
        """What does not fit these images."""
        found = self.mistakes_at(self.length(data), causal=False, grid=True)
        kinds = [a.kind for a in self.mechanisms if a.declared.one_place_per_token]
        if data.split_channels:
            found += [
                "data.split_channels: true puts several tokens at one place, but model.attention.kind: "
                f"{kind} needs one"
                for kind in dict.fromkeys(kinds)
            ]
        if data.split_channels and isinstance(self.positions, LearnedSinusoidalPositionsConfig):
            found.append(
                "data.split_channels: true puts several tokens at one place, but model.positions.kind: "
                "learned_sinusoidal needs one"
            )
        if self.embedding == "lookup" and data.values != 1:
            found.append(
                f"model.embedding: lookup needs patches of one value (data.patch_size 1, and one channel or "
                f"data.split_channels: true); these have {data.values}"
            )
        return found


class ClassifierTrainConfig(ImageTrainConfig):
    """Train an image classifier."""

    METRICS: ClassVar[dict[str, MonitorMode]] = {"val/loss": "min", "val/accuracy": "max"}
    LENGTH: ClassVar[str] = "data.image_size"

    task: Literal["classification"] = "classification"
    """what is trained"""
    data: ClassifierDataConfig = ClassifierDataConfig()
    """the images"""
    model: ClassifierConfig = ClassifierConfig()
    """the model"""

    @property
    def tokens_per_example(self) -> int:
        """See ExperimentConfig."""
        return self.model.length(self.data)

    @property
    def default_name(self) -> str:
        """See ExperimentConfig."""
        return f"{self.data.slug}-cls-{self.model.attention_slug}"

    def mistakes(self) -> list[str]:
        """See Strict."""
        return self.model.mistakes_on(self.data) + super().mistakes()
