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
    """A trained model, ready for use.

    ========================  =========================================================================
    trained by                what it can do
    ========================  =========================================================================
    cls_train.py              ``predict("three.png")``: how probable each class is
    generation_train.py       ``generate(["3", "8"])``: pictures of these classes
    lm_train.py               ``generate("It was ")``: a continuation; a masked one: ``predict("It [MASK] late.")``
    translation_train.py      ``translate("Two dogs play in the snow.")``
    synth_train.py            ``generate(word)``: the word, copied from a list of ``word_length`` symbols
    ========================  =========================================================================

    Each also has ``model`` (a ``torch.nn.Module`` in eval mode), ``config`` (what it was trained with), ``device`` and
    ``folder``; those of images have ``classes``, those of text ``tokenizer``.

    Args:
        checkpoint: name of a shipped checkpoint, or the folder of a run or of a checkpoint.
        device: where to compute; "auto" takes the fastest there is.
        data: settings of its data that are other than in training, such as ``{"root": "pictures"}`` for a folder, whose
            subfolders name the classes, that was moved.

    Raises:
        CheckpointError: no such checkpoint, or one whose files do not fit each other.
        ConfigError: its configuration cannot be used.
    """
    from dl_proj.experiments.load import load as load_any  # with torch, which takes seconds to import

    return load_any(checkpoint, device=device, data=data)
