"""The copy task: loss and accuracy on the second word only."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dl_proj.experiments.copy.dataset import word_length
from dl_proj.models.generation import AutoregressiveModel
from my_custom_ai.utils.meters import Ratio


class CopyObjective:
    """Cross-entropy (nats a token) and accuracy on the second word of ``SOS w SOS w``; the first is pure chance.

    Args:
        length: tokens a sequence.
    """

    def __init__(self, length: int) -> None:
        self.second_start = word_length(length) + 1  # where the second SOS stands

    def measure(self, model: nn.Module, batch: Tensor) -> dict[str, Ratio]:
        """Batch (b, length) of sequences, see Objective."""
        logits = model(batch[:, :-1])[:, self.second_start :]
        word = batch[:, self.second_start + 1 :]
        loss = F.cross_entropy(logits.transpose(1, 2), word, reduction="sum")
        right = (logits.argmax(-1) == word).sum(1)
        return {"loss": Ratio(loss, word.numel()), "accuracy": Ratio(right, torch.full_like(right, word.shape[1]))}

    def generated_accuracy(self, model: AutoregressiveModel, batch: Tensor) -> float:
        """Share of right symbols when the model continues ``SOS w SOS`` by itself, fed with its own output."""
        was_training = model.training
        model.eval()
        word = batch[:, self.second_start + 1 :]
        prompt = batch[:, : self.second_start + 1]
        copy = model.generate(prompt, word.shape[1])
        model.train(was_training)
        return (copy == word).double().mean().item()
