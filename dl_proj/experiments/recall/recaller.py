"""A trained model of associative recall in use: pairs and a key in, the value out."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from dl_proj.experiments.copy.settings import SynthTrainConfig
from dl_proj.experiments.recall.dataset import BLANK
from dl_proj.experiments.recall.sizes import n_keys_of
from dl_proj.experiments.trained import Trained
from dl_proj.models.generation import AutoregressiveModel


@dataclass(frozen=True)
class Recaller(Trained[SynthTrainConfig, AutoregressiveModel]):
    """A model that was trained to say the values of keys."""

    @torch.no_grad()
    def answer(self, pairs: Mapping[int, int], key: int, *, slot: int = 0) -> int:
        """The value that the model says for a key, after the pairs and ``slot`` places of blanks.

        Args:
            pairs: as many as it was trained on; keys from 1 to vocab_size / 2 - 1, values from there to vocab_size - 1.
            key: one of theirs.
            slot: 0 asks right after the pairs; each place more is two tokens.

        Raises:
            ValueError: other symbols, another number of pairs, a key that has no value, or a place beyond the last.
        """
        data = self.config.data
        n_keys = n_keys_of(data.vocab_size)
        if len(pairs) != data.n_pairs or not all(0 < k <= n_keys < v < data.vocab_size for k, v in pairs.items()):
            raise ValueError(
                f"the model knows {data.n_pairs} pairs of a key, 1 to {n_keys}, and a value, {n_keys + 1} to "
                f"{data.vocab_size - 1}; got {dict(pairs)}"
            )
        if key not in pairs:
            raise ValueError(f"key {key} is none of {', '.join(map(str, pairs))}")
        told = [symbol for pair in pairs.items() for symbol in pair] + [BLANK] * (2 * slot) + [key]
        if slot < 0 or len(told) > data.length:
            raise ValueError(f"slot {slot}: the model reads {data.length} tokens, of which {2 * len(pairs)} are pairs")
        return int(self.model(torch.tensor([told], device=self.device))[0, -1].argmax())
