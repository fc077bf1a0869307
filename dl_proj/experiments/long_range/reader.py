"""Use a trained classifier of long sequences: sequences in, classes out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dl_proj.checkpoint_folder import CLASSES, read_config
from dl_proj.experiments.long_range.listops import to_tokens
from dl_proj.experiments.long_range.sequences import padded
from dl_proj.experiments.long_range.settings import LongRangeTrainConfig
from dl_proj.experiments.long_range.train import build_sequence_classifier
from dl_proj.experiments.trained import Trained, ready
from dl_proj.models.classification import SequenceClassifier
from dl_proj.settings.help import Nested
from my_custom_ai.custom_train import CheckpointError
from my_custom_ai.custom_train.names import DeviceName

Example = str | bytes | tuple[str | bytes, str | bytes]


@dataclass(frozen=True)
class SequenceReader(Trained[LongRangeTrainConfig, SequenceClassifier]):
    """A trained classifier of long sequences.

    Args:
        classes: the class names, in the order of the model's logits.
    """

    classes: tuple[str, ...]

    def predict(self, examples: Sequence[Example], *, batch_size: int = 32) -> list[dict[str, float]]:
        """Return the probability of each class for each example, most probable class first.

        Args:
            examples: expressions of ListOps such as "[MAX 2 9 [MIN 4 7 ] 0 ]", texts, pairs of texts, or sequences of
                tokens, such as the grey levels of a picture; texts are truncated as in training.
            batch_size: examples per forward pass.

        Raises:
            ValueError: an unknown symbol, the wrong number of texts, or an empty or too long sequence.
        """
        found: list[dict[str, float]] = []
        for first in range(0, len(examples), batch_size):
            some = [self._sequences(example) for example in examples[first : first + batch_size]]
            for row in self.probabilities(*padded(some, self.config.data.max_length)):
                order = row.argsort(descending=True, stable=True).tolist()
                found.append({self.classes[i]: row[i].item() for i in order})
        return found

    @torch.no_grad()
    def probabilities(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return class probabilities (n, classes), on the CPU, for tokens and mask from a dataset's ``collate``."""
        return self.model(tokens.to(self.device), mask.to(self.device)).softmax(-1).cpu()

    def _sequences(self, example: Example) -> tuple[Tensor, ...]:
        wanted = self.config.data.PER_EXAMPLE
        given = (example,) if isinstance(example, str | bytes) else tuple(example)
        if len(given) != wanted:
            raise ValueError(f"an example must have {wanted} sequences (got {len(given)})")
        return tuple(self._sequence(one) for one in given)

    def _sequence(self, given: str | bytes) -> Tensor:
        data = self.config.data
        if isinstance(given, str):
            given = to_tokens(given) if data.kind == "listops" else given.encode()[: data.max_length]
        if not 1 <= len(given) <= data.max_length:
            raise ValueError(f"a sequence must have 1 to {data.max_length} tokens (got {len(given)})")
        if max(given) >= data.vocab_size:
            raise ValueError(f"tokens must be less than {data.vocab_size} (got {max(given)})")
        return torch.tensor(list(given))


def load_reader(folder: Path, *, device: DeviceName = "auto", data: Nested | None = None) -> SequenceReader:
    """Load the classifier in a checkpoint's folder; see :func:`dl_proj.load`.

    Raises:
        CheckpointError: the class names are missing or invalid.
    """
    config = read_config(LongRangeTrainConfig, folder, data)
    try:
        classes = tuple(map(str, json.loads((folder / CLASSES).read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError, RecursionError):
        raise CheckpointError(f"{folder / CLASSES}: must be a list of class names") from None
    model, where = ready(build_sequence_classifier(config, len(classes)), folder, device)
    return SequenceReader(folder, config, model, where, classes)
