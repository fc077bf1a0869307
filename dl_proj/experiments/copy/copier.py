"""Use a trained model of the copy task: a word in, the same word out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dl_proj.checkpoint_folder import read_config
from dl_proj.experiments.copy.dataset import SOS, word_length
from dl_proj.experiments.copy.settings import SynthTrainConfig
from dl_proj.experiments.copy.train import build_copy_model
from dl_proj.experiments.recall.recaller import Recaller
from dl_proj.experiments.trained import Trained, ready
from dl_proj.models.generation import AutoregressiveModel
from dl_proj.settings.help import Nested
from my_custom_ai.custom_train.names import DeviceName


@dataclass(frozen=True)
class Copier(Trained[SynthTrainConfig, AutoregressiveModel]):
    """A model that was trained to copy words."""

    def generate(self, word: Sequence[int]) -> list[int]:
        """Return the model's copy of a word.

        Args:
            word: ``word_length`` symbols, each 1 to vocab_size - 1.

        Raises:
            ValueError: an invalid symbol, or a word of the wrong length.
        """
        n_symbols = self.config.data.vocab_size
        if len(word) != self.word_length or not all(SOS < symbol < n_symbols for symbol in word):
            raise ValueError(
                f"word must have {self.word_length} symbols, each from 1 to {n_symbols - 1} (got {len(word)} symbols, "
                f"from {min(word, default=None)} to {max(word, default=None)})"
            )
        prompt = torch.tensor([[SOS, *word, SOS]], device=self.device)
        return self.model.generate(prompt, len(word))[0].tolist()

    @property
    def word_length(self) -> int:
        """Length of the words that it was trained on."""
        return word_length(self.config.data.length)


def load_copier(folder: Path, *, device: DeviceName = "auto", data: Nested | None = None) -> Copier | Recaller:
    """Load a model of the copy task or of associative recall from a checkpoint's folder; see :func:`dl_proj.load`."""
    config = read_config(SynthTrainConfig, folder, data)
    kind = Recaller if config.data.task == "recall" else Copier
    return kind(folder, config, *ready(build_copy_model(config), folder, device))
