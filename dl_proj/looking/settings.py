"""Schema of attention_maps.py."""

from pathlib import Path

from pydantic import Field

from dl_proj.settings.base import Strict
from my_custom_ai.custom_train.names import DeviceName


class AttentionMapsConfig(Strict):
    """Draw the attention weights of a trained model on one input, for every layer and head."""

    checkpoint: str = Field(min_length=1)
    """name of a shipped checkpoint, or folder of a run or checkpoint"""
    input: str | None = Field(None, min_length=1)
    """a picture file for a classifier, a class for a generator, a text for a language model, a sentence to translate;
    null: a random word to copy"""
    seed: int = Field(0, ge=0)
    """seed of the word to copy or of the generator's picture"""
    device: DeviceName = "auto"
    """where to compute; auto picks the fastest device available"""
    output_dir: Path = Path("runs/attention_maps")
    """folder for the pictures and attention.npz"""
