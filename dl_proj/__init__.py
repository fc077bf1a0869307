"""Experiments with efficient attention: settings, data, models, training, evaluation, studies."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from my_transformers import __version__ as __version__

if TYPE_CHECKING:
    from dl_proj.experiments.trained import Trained
    from my_custom_ai.custom_train.names import DeviceName


def load(
    checkpoint: "str | Path", *, device: "DeviceName" = "auto", data: dict[str, Any] | None = None
) -> "Trained[Any, Any]":
    """Load a trained model, ready for use.

    ========================  =========================================================================
    trained by                what it can do
    ========================  =========================================================================
    cls_train.py              ``predict("three.png")``: the probability of each class
    generation_train.py       ``generate(["3", "8"])``: an image of each class
    lm_train.py               ``generate("It was ")``: a continuation; if masked, ``predict("It [MASK] late.")``
    translation_train.py      ``translate("Two dogs play in the snow.")``
    synth_train.py            ``generate(word)``: a copy of the word, a list of ``word_length`` symbols
    ========================  =========================================================================

    Each also has ``model`` (a ``torch.nn.Module`` in eval mode), ``config`` (its training configuration), ``device``
    and ``folder``; image models have ``classes``, text models ``tokenizer``.

    Args:
        checkpoint: the name of a shipped checkpoint, or the folder of a run or checkpoint.
        device: where to compute; "auto" picks the fastest device available.
        data: data settings to override, such as ``{"root": "pictures"}`` if the image folder has moved.

    Raises:
        CheckpointError: no such checkpoint, or its files do not match each other.
        ConfigError: its configuration is invalid.
    """
    from dl_proj.experiments.load import load as load_any  # imports torch, which takes seconds

    return load_any(checkpoint, device=device, data=data)
