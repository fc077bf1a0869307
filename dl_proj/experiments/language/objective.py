"""Language modelling: what a prediction of tokens is measured by."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from my_custom_ai.utils.meters import Ratio

_NOT_COUNTED = -100  # cross_entropy's word for a target without a loss


class LanguageObjective:
    """Cross-entropy (nats a token) and accuracy of those targets that count; perplexity is exp of the mean loss."""

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """See :class:`~my_custom_ai.custom_train.objective.Objective`."""
        loss = means["loss"]
        return {"perplexity": math.inf if loss > 700 else math.exp(loss)}  # which raises beyond that

    def predicted(self, logits: Tensor, targets: Tensor) -> dict[str, Ratio]:
        """Logits (..., vocab) of targets (...), of which those do not count that are -100.

        No other tensor as large as the logits is made but those of the cross-entropy.
        """
        number = (targets != _NOT_COUNTED).sum()
        loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=_NOT_COUNTED, reduction="sum")
        right = (logits.detach().argmax(-1) == targets).sum()
        return {"loss": Ratio(loss, number), "accuracy": Ratio(right, number)}


class CausalObjective(LanguageObjective):
    """Each token given those before it. With bits per byte: -log2 p of the text by its bytes, whatever a token is."""

    def measure(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Ratio]:
        """Batch of tokens (b, n + 1), counted (b, n) targets and bytes a token (b,); see Objective."""
        tokens, counted, bytes_per_token = batch
        found = self.predicted(model(tokens[:, :-1]), tokens[:, 1:].masked_fill(~counted, _NOT_COUNTED))
        bits = found["loss"].total.detach() / math.log(2)
        n_bytes = (counted.sum(1) * bytes_per_token).sum()
        return found | {"bits_per_byte": Ratio(bits, n_bytes)}


class MaskedObjective(LanguageObjective):
    """The tokens at the chosen places, of which most are hidden (Devlin et al. 2019, section 3.1)."""

    def measure(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Ratio]:
        """Batch of inputs, targets and which places are chosen, each (b, n); see Objective."""
        inputs, targets, chosen = batch
        return self.predicted(model(inputs, at=chosen), targets[chosen])
