"""The names that ``from my_custom_ai.custom_train import ...`` finds; importing this module imports torch."""

from my_custom_ai.custom_train.checkpoint import load_weights, save_weights
from my_custom_ai.custom_train.devices import check_installed, device_called, start
from my_custom_ai.custom_train.errors import CheckpointError, NonFiniteLoss, SetupError
from my_custom_ai.custom_train.evaluation import evaluate
from my_custom_ai.custom_train.monitor import Monitor
from my_custom_ai.custom_train.objective import Objective
from my_custom_ai.custom_train.optimizers import build_optimizer
from my_custom_ai.custom_train.pace import Pace
from my_custom_ai.custom_train.run_directory import RunDirectory
from my_custom_ai.custom_train.trainer import Trainer

__all__ = [
    "CheckpointError",
    "Monitor",
    "NonFiniteLoss",
    "Objective",
    "Pace",
    "RunDirectory",
    "SetupError",
    "Trainer",
    "build_optimizer",
    "check_installed",
    "device_called",
    "evaluate",
    "load_weights",
    "save_weights",
    "start",
]
