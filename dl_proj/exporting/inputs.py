"""The inputs of a trained model's graph, per task: names, sizes, and random examples."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dl_proj.experiments.copy.copier import Copier
from dl_proj.experiments.images.classification.classifier import Classifier
from dl_proj.experiments.images.generation.generator import Generator
from dl_proj.experiments.recall.recaller import Recaller
from dl_proj.experiments.trained import Trained
from dl_proj.experiments.translation.translator import Translator
from dl_proj.exporting.graphs import Input
from dl_proj.models.settings import EncoderDecoderConfig
from my_transformers.settings import MechanismSettings

_EXAMPLE_BATCH = 3


@dataclass(frozen=True)
class GraphInputs:
    """The inputs of a model.

    Args:
        trained: the model.
        max_len: maximum tokens of a sequence.
        any_length: whether the graph supports all lengths up to ``max_len``, or only ``max_len``.
    """

    trained: Trained[Any, Any]
    max_len: int
    any_length: bool

    @classmethod
    def of(cls, trained: Trained[Any, Any]) -> "GraphInputs":
        """Build the inputs, with any length if the task has variable lengths and all mechanisms support it."""
        config = trained.config
        match trained:
            case Classifier():
                return cls(trained, config.tokens_per_example or 1, any_length=False)
            case Copier() | Recaller():
                longest = config.data.n_inputs
            case Generator():
                longest = config.data.max_len - 1  # the label comes first
            case Translator():
                longest = trained.max_length
            case _:
                longest = config.data.window
        return cls(trained, longest, all(one.exports_any_length for one in _mechanisms(config.model)))

    def examples(self) -> dict[str, Input]:
        """Return an example of every input by name; a variable length is strictly inside its range."""
        length = max(2, self.max_len - 1) if self.any_length else self.max_len
        drawn = self.draw(_EXAMPLE_BATCH, length, seed=0)
        return {name: Input(value, self._axes(name, value)) for name, value in drawn.items()}

    def draw(self, batch: int, length: int, *, seed: int) -> dict[str, Tensor]:
        """Draw random inputs, with sequences of ``length`` tokens."""
        generator = torch.Generator().manual_seed(seed)
        trained = self.trained

        def tokens(n_symbols: int, *shape: int) -> Tensor:
            return torch.randint(n_symbols, (batch, *shape), generator=generator)

        match trained:
            case Classifier():
                data = trained.config.data
                return {"images": tokens(data.vocab_size, data.channels, data.side, data.side).to(torch.uint8)}
            case Generator():
                n_symbols = trained.config.data.vocab_size
                return {"tokens": tokens(n_symbols, length), "labels": tokens(len(trained.classes))}
            case Translator():
                tokenizer = trained.tokenizer
                real = torch.arange(length) < torch.randint(1, length + 1, (batch, 1), generator=generator)
                source, target = (tokens(side.vocab_size, length) for side in (tokenizer.source, tokenizer.target))
                return {"source": source, "target": target, "source_mask": real}
        return {"tokens": tokens(trained.model.embedding.num_embeddings, length)}

    def checks(self) -> Iterator[dict[str, Tensor]]:
        """Yield inputs of several sizes, to compare graph and model."""
        lengths = sorted({1, self.max_len // 2 or 1, self.max_len}) if self.any_length else [self.max_len]
        for seed, length in enumerate(lengths, 1):
            for batch in (1, 5):
                yield self.draw(batch, length, seed=seed)

    def _axes(self, name: str, value: Tensor) -> dict[int, str]:
        if not self.any_length or value.dim() != 2:
            return {0: "batch"}
        length = {"tokens": "length", "target": "target length"}.get(name, "source length")
        return {0: "batch", 1: length.replace(" ", "_")}


def _mechanisms(model: Any) -> list[MechanismSettings]:
    stacks = [model.encoder, model.decoder, model.across] if isinstance(model, EncoderDecoderConfig) else [model]
    return [attention.settings for stack in stacks for attention in stack.mechanisms]
