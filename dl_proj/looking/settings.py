"""Schema of attention_maps.py."""

from pathlib import Path

from pydantic import Field

from dl_proj.settings.base import Strict
from my_custom_ai.custom_train.names import DeviceName


class AttentionMapsConfig(Strict):
    """Draw what a trained model attends to in one input, in every layer and head."""

    checkpoint: str = Field(min_length=1)
    """name of a shipped checkpoint, or folder of a run or checkpoint"""
    input: str | None = Field(None, min_length=1)
    """a picture's file for a classifier, a class that a generator draws, a text for a language model, a sentence to
    translate; null: a word to copy, drawn from the seed"""
    seed: int = Field(0, ge=0)
    """of what is drawn: the word to copy, a generator's picture"""
    device: DeviceName = "auto"
    """where to compute; auto takes the fastest there is"""
    output_dir: Path = Path("runs/attention_maps")
    """where the pictures and attention.npz go"""
