"""A trained classifier of long sequences in use: sequences in, classes out."""

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
        classes: their names, in the order of the model's logits.
    """

    classes: tuple[str, ...]

    def predict(self, examples: Sequence[Example], *, batch_size: int = 32) -> list[dict[str, float]]:
        """How probable each class is for each example, the likeliest class first.

        Args:
            examples: expressions of ListOps such as "[MAX 2 9 [MIN 4 7 ] 0 ]", texts, pairs of texts, or sequences as
                tokens, such as the grey levels of a picture; texts are cut to the model's length, as in training.
            batch_size: examples that go through the model together.

        Raises:
            ValueError: another symbol, not as many texts as the model takes, or an empty or too long sequence.
        """
        found: list[dict[str, float]] = []
        for first in range(0, len(examples), batch_size):
            some = [self._sequences(example) for example in examples[first : first + batch_size]]
            for row in self.probabilities(*padded(some)):
                order = row.argsort(descending=True, stable=True).tolist()
                found.append({self.classes[i]: row[i].item() for i in order})
        return found

    @torch.no_grad()
    def probabilities(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Tokens and mask as a dataset's ``collate`` makes them -> (n, classes), on the CPU."""
        return self.model(tokens.to(self.device), mask.to(self.device)).softmax(-1).cpu()

    def _sequences(self, example: Example) -> tuple[Tensor, ...]:
        together = self.config.data.PER_EXAMPLE
        given = (example,) if isinstance(example, str | bytes) else tuple(example)
        if len(given) != together:
            raise ValueError(f"an example of {len(given)} sequences; must be {together}")
        return tuple(self._sequence(one) for one in given)

    def _sequence(self, given: str | bytes) -> Tensor:
        data = self.config.data
        if isinstance(given, str):
            given = to_tokens(given) if data.kind == "listops" else given.encode()[: data.max_length]
        if not 1 <= len(given) <= data.max_length:
            raise ValueError(f"a sequence of {len(given)} tokens; must be 1 to {data.max_length}")
        if max(given) >= data.vocab_size:
            raise ValueError(f"token {max(given)} must be less than {data.vocab_size}")
        return torch.tensor(list(given))


def load_reader(folder: Path, *, device: DeviceName = "auto", data: Nested | None = None) -> SequenceReader:
    """The classifier in a checkpoint's folder; see :func:`dl_proj.load`.

    Raises:
        CheckpointError: the names of its classes are missing or are none.
    """
    config = read_config(LongRangeTrainConfig, folder, data)
    try:
        classes = tuple(map(str, json.loads((folder / CLASSES).read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError, RecursionError):
        raise CheckpointError(f"{folder / CLASSES}: must be a list of the classes' names") from None
    model, where = ready(build_sequence_classifier(config, len(classes)), folder, device)
    return SequenceReader(folder, config, model, where, classes)
