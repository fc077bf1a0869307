"""The names that ``from my_custom_ai import ...`` finds; importing this module imports torch."""

from my_custom_ai.custom_train import schedules
from my_custom_ai.custom_train.checkpoint import load_weights, save_weights
from my_custom_ai.custom_train.data import TrainingBatches, evaluation_batches
from my_custom_ai.custom_train.devices import start
from my_custom_ai.custom_train.errors import CheckpointError, NonFiniteLoss, SetupError
from my_custom_ai.custom_train.evaluation import evaluate
from my_custom_ai.custom_train.monitor import Monitor
from my_custom_ai.custom_train.objective import Objective
from my_custom_ai.custom_train.optimizers import build_optimizer
from my_custom_ai.custom_train.pace import Pace
from my_custom_ai.custom_train.run_directory import RunDirectory
from my_custom_ai.custom_train.trainer import Trainer
from my_custom_ai.utils.meters import Ratio
from my_custom_ai.utils.seeding import seed_everything

__all__ = [
    "CheckpointError",
    "Monitor",
    "NonFiniteLoss",
    "Objective",
    "Pace",
    "Ratio",
    "RunDirectory",
    "SetupError",
    "Trainer",
    "TrainingBatches",
    "build_optimizer",
    "evaluate",
    "evaluation_batches",
    "load_weights",
    "save_weights",
    "schedules",
    "seed_everything",
    "start",
]
