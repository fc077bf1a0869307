"""The objective of associative recall: loss and accuracy on the answers only."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dl_proj.experiments.recall.dataset import NONE
from dl_proj.models.generation import AutoregressiveModel
from my_custom_ai.utils.meters import Ratio


class RecallObjective:
    """Cross-entropy (nats per answer) and accuracy at the queries; all other tokens are unpredictable."""

    def measure(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Ratio]:
        """Measure tokens and answers, both (b, length), with equally many answers per sequence; see Objective."""
        tokens, answers = batch
        is_query = answers != NONE
        logits, targets = model(tokens, at=is_query), answers[is_query]
        loss = F.cross_entropy(logits, targets, reduction="sum")
        correct = (logits.argmax(-1) == targets).view(len(tokens), -1)
        return {
            "loss": Ratio(loss, targets.numel()),
            "accuracy": Ratio(correct.sum(1), torch.full_like(tokens[:, 0], correct.shape[1])),
        }

    @torch.no_grad()
    def decoded_accuracy(self, model: AutoregressiveModel, batch: tuple[Tensor, Tensor]) -> float:
        """Return the fraction of correct answers when the model reads token by token, keeping only its caches."""
        was_training = model.training
        model.eval()
        tokens, answers = batch
        predicted = model.logits_in_steps(tokens).argmax(-1)
        model.train(was_training)
        is_query = answers != NONE
        return (predicted[is_query] == answers[is_query]).double().mean().item()
