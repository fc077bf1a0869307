"""The base class of all loaded models."""

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
    """A trained model, ready for use; the subclasses add what their task offers.

    Args:
        folder: the checkpoint's folder.
        config: the configuration that it was trained with.
        model: in eval mode, with the trained weights.
        device: the model's device.
    """

    folder: Path
    config: Config
    model: Model
    device: torch.device


def ready(model: Model, folder: Path, device: DeviceName) -> tuple[Model, torch.device]:
    """Load a checkpoint's weights into a model; returns it in eval mode on the device.

    Raises:
        CheckpointError: the weights do not fit the model.
        SetupError: this machine has no such device.
    """
    where = device_called(device)
    load_weights(folder / "model.safetensors", model)
    return model.to(where).eval(), where
