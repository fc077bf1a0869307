"""Associative recall: loss and accuracy on the answers alone."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dl_proj.experiments.recall.dataset import NONE
from dl_proj.models.generation import AutoregressiveModel
from my_custom_ai.utils.meters import Ratio


class RecallObjective:
    """Cross-entropy (nats an answer) and accuracy where a key is asked for; what else comes is pure chance."""

    def measure(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Ratio]:
        """Batch of tokens and answers, (b, length) both, with equally many answers each, see Objective."""
        tokens, answers = batch
        asked = answers != NONE
        logits, wanted = model(tokens, at=asked), answers[asked]
        loss = F.cross_entropy(logits, wanted, reduction="sum")
        right = (logits.argmax(-1) == wanted).view(len(tokens), -1)
        return {
            "loss": Ratio(loss, wanted.numel()),
            "accuracy": Ratio(right.sum(1), torch.full_like(tokens[:, 0], right.shape[1])),
        }

    @torch.no_grad()
    def decoded_accuracy(self, model: AutoregressiveModel, batch: tuple[Tensor, Tensor]) -> float:
        """Share of right answers when the model reads token by token and keeps nothing but its caches."""
        was_training = model.training
        model.eval()
        tokens, answers = batch
        said = model.logits_in_steps(tokens).argmax(-1)
        model.train(was_training)
        asked = answers != NONE
        return (said[asked] == answers[asked]).double().mean().item()
