"""What every loaded model has."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import nn

from dl_proj.experiments.settings import ExperimentConfig
from my_custom_ai.custom_train import device_called, load_weights
from my_custom_ai.custom_train.names import DeviceName

Config = TypeVar("Config", bound=ExperimentConfig)
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Trained(Generic[Config, Model]):
    """A trained model, ready for use; what can be done with it depends on its task, see the subclasses.

    Args:
        folder: of its checkpoint.
        config: that it was trained with.
        model: in eval mode, with its trained weights.
        device: where the model is.
    """

    folder: Path
    config: Config
    model: Model
    device: torch.device


def ready(model: Model, folder: Path, device: DeviceName) -> tuple[Model, torch.device]:
    """Give a model the weights in a checkpoint's folder; returns it in eval mode on the device.

    Raises:
        CheckpointError: weights of another model.
        SetupError: this machine has no such device.
    """
    where = device_called(device)
    load_weights(folder / "model.safetensors", model)
    return model.to(where).eval(), where
