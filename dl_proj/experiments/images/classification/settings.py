"""Schema of cls_train.py."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dl_proj.experiments.images.settings import ClassifierDataConfig, ImageTrainConfig
from dl_proj.experiments.settings import MonitorMode
from dl_proj.models.baseline_settings import ConvolutionConfig, LinearConfig
from dl_proj.models.settings import LearnedSinusoidalPositionsConfig, StackConfig


class ClassifierConfig(StackConfig):
    """A stack between embedded patches and logits."""

    kind: Literal["transformer"] = "transformer"
    """what classifies: transformer (a stack around any attention), or a baseline, linear or cnn"""
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


AnyClassifierConfig = Annotated[ClassifierConfig | LinearConfig | ConvolutionConfig, Field(discriminator="kind")]


class ClassifierTrainConfig(ImageTrainConfig):
    """Train an image classifier."""

    METRICS: ClassVar[dict[str, MonitorMode]] = {"val/loss": "min", "val/accuracy": "max"}
    LENGTH: ClassVar[str] = "data.image_size"

    task: Literal["classification"] = "classification"
    """what is trained"""
    data: ClassifierDataConfig = ClassifierDataConfig()
    """the images"""
    model: AnyClassifierConfig = ClassifierConfig()
    """the model"""

    @model_validator(mode="before")
    @classmethod
    def _transformer_if_not_said(cls, values: Any) -> Any:
        return _with_kind(values) if isinstance(values, dict) else values

    @classmethod
    def beside_flags(cls, values: dict[str, Any], flags: dict[str, Any], path: Path) -> dict[str, Any]:
        """See Strict: a file that names no kind of model means a transformer, which flags may replace."""
        return super().beside_flags(_with_kind(values), flags, path)

    @property
    def tokens_per_example(self) -> int | None:
        """See ExperimentConfig; a model without attention sees no sequence."""
        return self.model.length(self.data) if isinstance(self.model, ClassifierConfig) else None

    @property
    def default_name(self) -> str:
        """See ExperimentConfig."""
        slug = self.model.attention_slug if isinstance(self.model, ClassifierConfig) else self.model.kind
        return f"{self.data.slug}-cls-{slug}"

    def mistakes(self) -> list[str]:
        """See Strict."""
        found = self.model.mistakes_on(self.data) if isinstance(self.model, ClassifierConfig) else []
        return found + super().mistakes()


def _with_kind(values: dict[str, Any]) -> dict[str, Any]:
    """A training's settings, with the kind of the model, which older files do not name."""
    model = values.get("model")
    return values | {"model": {"kind": "transformer"} | model} if isinstance(model, dict) else values
