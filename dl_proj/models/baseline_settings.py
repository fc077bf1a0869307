"""Schemas of the image classifiers without attention, which serve as baselines."""

from typing import Annotated, Literal

from pydantic import Field

from dl_proj.settings.base import Strict


class ImageBaselineConfig(Strict):
    """The interface of all models' settings, for a model without attention."""

    @property
    def attention_title(self) -> str:
        """A name for tables and phrases such as "with no attention"."""
        return "no"

    @property
    def dim(self) -> int:
        """The width by which the noam schedule scales the rate; 1: no scaling."""
        return 1


class LinearConfig(ImageBaselineConfig):
    """Logistic regression on all pixels: a linear map to the logits, without patches."""

    kind: Literal["linear"] = "linear"
    """the classifier: transformer (with any attention), or a baseline: linear or cnn"""


class ConvolutionConfig(ImageBaselineConfig):
    """A small convolutional network (LeCun et al. 1998), without patches."""

    kind: Literal["cnn"] = "cnn"
    """the classifier: transformer (with any attention), or a baseline: linear or cnn"""
    channels: tuple[Annotated[int, Field(ge=1)], ...] = Field((32, 64), min_length=1)
    """cnn: channels of each convolution; each is followed by a relu and max pooling, which halves the image's sides"""
    dropout: float = Field(0.0, ge=0, lt=1)
    """cnn: dropout on the features before the linear map to the logits"""
