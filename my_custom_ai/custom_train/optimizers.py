"""Optimisers by name, with weight decay on matrices only."""

import torch
from torch import nn

from my_custom_ai.custom_train.names import OptimizerName


def build_optimizer(
    model: nn.Module,
    name: OptimizerName = "adam",
    *,
    lr: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.Optimizer:
    """Adam, AdamW or Adafactor over the parameters that require a gradient.

    Weight decay is not applied to biases, normalisations and other vectors. Adafactor ignores betas and eps, and keeps
    PyTorch's defaults. Its steps are relative to the weights: max(0.001, RMS of the weights) * min(lr, 1 / sqrt(t)) at
    update t, with lr = 0.01 in the paper (Shazeer and Stern 2018, algorithms 4 and 5).

    Raises:
        ValueError: an unknown optimiser name.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    match name:
        case "adam":
            return torch.optim.Adam(groups, lr=lr, betas=betas, eps=eps)
        case "adamw":
            return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps)
        case "adafactor":
            return torch.optim.Adafactor(groups, lr=lr)
        case _:
            raise ValueError(f"optimizer is {name!r}, must be adam, adamw or adafactor")
