"""synth_train.py: train a model to copy."""

import torch
from torch.utils.data import default_collate

from dl_proj.experiments.copy.dataset import CopyDataset, Split
from dl_proj.experiments.copy.objective import CopyObjective
from dl_proj.experiments.copy.settings import CopyDataConfig, SynthTrainConfig
from dl_proj.experiments.experiment import Experiment, add_figures, train_and_test
from dl_proj.models.build import build_autoregressive
from dl_proj.models.generation import AutoregressiveModel
from my_custom_ai.custom_train import RunDirectory

_GENERATED = 64  # test sequences that the model also copies by itself, token by token


def build_copy_model(config: SynthTrainConfig) -> AutoregressiveModel:
    """The model, its initial weights drawn from the configuration's seed."""
    torch.manual_seed(config.seed)
    length = config.data.length - 1
    return build_autoregressive(config.model, vocab_size=config.data.vocab_size, max_len=length, seed=config.seed)


def copy_dataset(data: CopyDataConfig, split: Split, size: int, seed: int) -> CopyDataset:
    """A split of the copy task; only training sequences may be fresh each epoch."""
    return CopyDataset(
        split,
        size,
        vocab_size=data.vocab_size,
        length=data.length,
        seed=seed,
        corruption=data.corruption,
        fresh=data.fresh and split == "train",
    )


def copy_experiment(config: SynthTrainConfig) -> Experiment:
    """Model, objective and sequences."""
    data = config.data
    return Experiment(
        build_copy_model(config),
        CopyObjective(data.length),
        train_data=copy_dataset(data, "train", data.n_train, config.seed),
        val_data=copy_dataset(data, "val", data.n_val, config.seed),
        test_data=copy_dataset(data, "test", data.n_test, config.seed),
    )


def train_to_copy(config: SynthTrainConfig, resume: RunDirectory | None = None) -> None:
    """Train, test, and let the model copy some test words by itself."""
    experiment, objective = copy_experiment(config), CopyObjective(config.data.length)
    trainer = train_and_test(config, experiment, config.model.dim, resume)
    if trainer.accelerator.is_main_process and _can_decode(config):
        some = [experiment.test_data[i] for i in range(min(_GENERATED, config.data.n_test))]
        batch = default_collate(some).to(trainer.accelerator.device)
        accuracy = objective.generated_accuracy(trainer.accelerator.unwrap_model(trainer.model), batch)
        add_figures(trainer.run, {"test/generated_accuracy": accuracy})
        print(f"decoded token by token: {accuracy:.2%} of the symbols of {len(some)} test words copied")


def _can_decode(config: SynthTrainConfig) -> bool:
    """The paper's chunk rule cannot be decoded step by step."""
    return all(getattr(attention, "rule", "bucket") == "bucket" for attention in config.model.mechanisms)
