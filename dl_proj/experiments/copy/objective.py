"""The objective of the copy task: loss and accuracy on the second word only."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dl_proj.experiments.copy.dataset import word_length
from dl_proj.models.generation import AutoregressiveModel
from my_custom_ai.utils.meters import Ratio


class CopyObjective:
    """Cross-entropy (nats per token) and accuracy on the second word of ``SOS w SOS w``; the first is unpredictable.

    Args:
        length: tokens per sequence.
    """

    def __init__(self, length: int) -> None:
        self.second_start = word_length(length) + 1  # index of the second SOS

    def measure(self, model: nn.Module, batch: Tensor) -> dict[str, Ratio]:
        """Measure a batch of sequences, (b, length); see Objective."""
        logits = model(batch[:, :-1])[:, self.second_start :]
        word = batch[:, self.second_start + 1 :]
        loss = F.cross_entropy(logits.transpose(1, 2), word, reduction="sum")
        correct = (logits.argmax(-1) == word).sum(1)
        return {"loss": Ratio(loss, word.numel()), "accuracy": Ratio(correct, torch.full_like(correct, word.shape[1]))}

    def generated_accuracy(self, model: AutoregressiveModel, batch: Tensor) -> float:
        """Return the fraction of correct symbols when the model continues ``SOS w SOS`` from its own output."""
        was_training = model.training
        model.eval()
        word = batch[:, self.second_start + 1 :]
        prompt = batch[:, : self.second_start + 1]
        copy = model.generate(prompt, word.shape[1])
        model.train(was_training)
        return (copy == word).double().mean().item()
