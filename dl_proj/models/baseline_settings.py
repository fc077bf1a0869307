"""Schemas of the image classifiers without attention, which those with it are compared with."""

from typing import Annotated, Literal

from pydantic import Field

from dl_proj.settings.base import Strict


class ImageBaselineConfig(Strict):
    """What is asked of every model's settings, answered for a model without attention."""

    @property
    def attention_title(self) -> str:
        """For tables, and for sentences such as "with no attention"."""
        return "no"

    @property
    def dim(self) -> int:
        """The width by which the noam schedule scales the rate; 1 leaves it as it is."""
        return 1


class LinearConfig(ImageBaselineConfig):
    """Logistic regression on all pixels: one linear map to the logits. It cuts images into no patches."""

    kind: Literal["linear"] = "linear"
    """what classifies: transformer (a stack around any attention), or a baseline, linear or cnn"""


class ConvolutionConfig(ImageBaselineConfig):
    """A small convolutional network (LeCun et al. 1998). It cuts images into no patches."""

    kind: Literal["cnn"] = "cnn"
    """what classifies: transformer (a stack around any attention), or a baseline, linear or cnn"""
    channels: tuple[Annotated[int, Field(ge=1)], ...] = Field((32, 64), min_length=1)
    """cnn: channels of each convolution; after each, a relu and max pooling halve the image's sides"""
    dropout: float = Field(0.0, ge=0, lt=1)
    """cnn: on the pixels' features before the linear map to the logits"""
