"""Use a trained model of associative recall: pairs and a key in, the value out."""

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
    """A model that was trained to recall the values of keys."""

    @torch.no_grad()
    def answer(self, pairs: Mapping[int, int], key: int, *, slot: int = 0) -> int:
        """Return the value that the model predicts for a key, after the pairs and ``slot`` blank slots.

        Args:
            pairs: as many as in training; keys are 1 to vocab_size // 2 - 1, values vocab_size // 2 to vocab_size - 1.
            key: a key of the pairs.
            slot: 0 queries right after the pairs; each further slot inserts two blanks.

        Raises:
            ValueError: invalid symbols, a wrong number of pairs, a key without a value, or a slot beyond the last.
        """
        data = self.config.data
        n_keys = n_keys_of(data.vocab_size)
        if len(pairs) != data.n_pairs or not all(0 < k <= n_keys < v < data.vocab_size for k, v in pairs.items()):
            raise ValueError(
                f"pairs must be {data.n_pairs} pairs of a key from 1 to {n_keys} and a value from {n_keys + 1} to "
                f"{data.vocab_size - 1} (got {dict(pairs)})"
            )
        if key not in pairs:
            raise ValueError(f"key must be one of {', '.join(map(str, pairs))} (got {key})")
        tokens = [symbol for pair in pairs.items() for symbol in pair] + [BLANK] * (2 * slot) + [key]
        if slot < 0 or len(tokens) > data.length:
            most = (data.length - 1) // 2 - len(pairs)
            raise ValueError(f"slot must be from 0 to {most} (got {slot}): the model reads {data.length} tokens")
        return int(self.model(torch.tensor([tokens], device=self.device))[0, -1].argmax())
