"""The objectives of causal and masked language models."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from my_custom_ai.utils.meters import Ratio

_NOT_COUNTED = -100  # cross_entropy's default ignore_index


class LanguageObjective:
    """Cross-entropy (nats per token) and accuracy of the targets that count; perplexity is exp of the mean loss."""

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """See :class:`~my_custom_ai.custom_train.objective.Objective`."""
        loss = means["loss"]
        return {"perplexity": math.inf if loss > 700 else math.exp(loss)}  # exp would overflow

    def predicted(self, logits: Tensor, targets: Tensor) -> dict[str, Ratio]:
        """Measure logits (..., vocab) against targets (...), ignoring targets of -100.

        Apart from those of the cross-entropy, no other tensor of the logits' size is created.
        """
        number = (targets != _NOT_COUNTED).sum()
        loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=_NOT_COUNTED, reduction="sum")
        correct = (logits.detach().argmax(-1) == targets).sum()
        return {"loss": Ratio(loss, number), "accuracy": Ratio(correct, number)}


class CausalObjective(LanguageObjective):
    """Prediction of each token from earlier ones; also bits per byte, -log2 p per byte of text for any tokenizer."""

    def measure(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Ratio]:
        """Measure a batch: tokens (b, n + 1), which targets count (b, n), bytes per token (b,); see Objective."""
        tokens, counted, bytes_per_token = batch
        found = self.predicted(model(tokens[:, :-1]), tokens[:, 1:].masked_fill(~counted, _NOT_COUNTED))
        bits = found["loss"].total.detach() / math.log(2)
        n_bytes = (counted.sum(1) * bytes_per_token).sum()
        return found | {"bits_per_byte": Ratio(bits, n_bytes)}


class MaskedObjective(LanguageObjective):
    """Prediction of the tokens at the chosen positions, most of which are masked (Devlin et al. 2019, section 3.1)."""

    def measure(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Ratio]:
        """Measure a batch: inputs, targets and which positions are chosen, each (b, n); see Objective."""
        inputs, targets, chosen = batch
        return self.predicted(model(inputs, at=chosen), targets[chosen])
