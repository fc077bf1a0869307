"""Schema of cls_train.py."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dl_proj.experiments.images.settings import ClassifierDataConfig, ImageTrainConfig
from dl_proj.experiments.settings import MonitorMode
from dl_proj.models.baseline_settings import ConvolutionConfig, LinearConfig
from dl_proj.models.settings import LearnedSinusoidalPositionsConfig, StackConfig


class ClassifierConfig(StackConfig):
    """A stack of layers on embedded patches."""

    kind: Literal["transformer"] = "transformer"
    """the classifier: transformer (with any attention), or a baseline: linear or cnn"""
    pooling: Literal["mean", "class_token"] = "mean"
    """what is classified: the mean over all outputs, or the output at a class token, which with lsh attends to only one
    bucket per round"""
    embedding: Literal["linear", "mlp", "lookup"] = "linear"
    """embedding of a patch: linear; mlp: two linear maps with a gelu between; lookup: a learned vector per level, for
    patches of one value"""

    def length(self, data: ClassifierDataConfig) -> int:
        """Return the tokens per sequence."""
        return data.length + (self.pooling == "class_token")

    def mistakes_on(self, data: ClassifierDataConfig) -> list[str]:
        """Return the mistakes in combination with these images."""
        found = self.mistakes_at(self.length(data), causal=False, grid=True)
        kinds = [a.kind for a in self.mechanisms if a.declared.one_place_per_token]
        if data.split_channels:
            found += [
                "data.split_channels: true puts several tokens at one position, but model.attention.kind: "
                f"{kind} needs one token per position"
                for kind in dict.fromkeys(kinds)
            ]
        if data.split_channels and isinstance(self.positions, LearnedSinusoidalPositionsConfig):
            found.append(
                "data.split_channels: true puts several tokens at one position, but model.positions.kind: "
                "learned_sinusoidal needs one token per position"
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
    """type of training; fixed"""
    data: ClassifierDataConfig = ClassifierDataConfig()
    """the images"""
    model: AnyClassifierConfig = ClassifierConfig()
    """the model"""

    @model_validator(mode="before")
    @classmethod
    def _default_to_transformer(cls, values: Any) -> Any:
        return _with_kind(values) if isinstance(values, dict) else values

    @classmethod
    def beside_flags(cls, values: dict[str, Any], flags: dict[str, Any], path: Path) -> dict[str, Any]:
        """See Strict: a file without a kind of model means a transformer, which flags may replace."""
        return super().beside_flags(_with_kind(values), flags, path)

    @property
    def tokens_per_example(self) -> int | None:
        """See ExperimentConfig; None for a model without attention."""
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
    """Add the kind of the model, which older files lack."""
    model = values.get("model")
    return values | {"model": {"kind": "transformer"} | model} if isinstance(model, dict) else values
