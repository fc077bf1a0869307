"""synth_train.py: train a model on the copy task or on associative recall."""

import torch
from accelerate.utils import send_to_device
from torch.utils.data import default_collate

from dl_proj.experiments.copy.dataset import CopyDataset, Split
from dl_proj.experiments.copy.objective import CopyObjective
from dl_proj.experiments.copy.settings import SynthDataConfig, SynthTrainConfig
from dl_proj.experiments.experiment import Experiment, add_figures, train_and_test
from dl_proj.experiments.recall.dataset import RecallDataset
from dl_proj.experiments.recall.objective import RecallObjective
from dl_proj.models.build import build_autoregressive
from dl_proj.models.generation import AutoregressiveModel
from my_custom_ai.custom_train import RunDirectory

_DECODED = 64  # test sequences that are also decoded token by token


def build_copy_model(config: SynthTrainConfig) -> AutoregressiveModel:
    """Build the model, with initial weights drawn from the configuration's seed."""
    torch.manual_seed(config.seed)
    data = config.data
    return build_autoregressive(config.model, vocab_size=data.vocab_size, max_len=data.n_inputs, seed=config.seed)


def copy_dataset(data: SynthDataConfig, split: Split, size: int, seed: int) -> CopyDataset:
    """Build a split of the copy task; only training sequences may be redrawn in each epoch."""
    return CopyDataset(
        split,
        size,
        vocab_size=data.vocab_size,
        length=data.length,
        seed=seed,
        corruption=data.corruption,
        fresh=data.fresh and split == "train",
    )


def recall_dataset(data: SynthDataConfig, split: Split, size: int, seed: int) -> RecallDataset:
    """Build a split of associative recall; only training sequences may be redrawn in each epoch."""
    return RecallDataset(
        split,
        size,
        vocab_size=data.vocab_size,
        length=data.length,
        n_pairs=data.n_pairs,
        gap_power=data.gap_power,
        filler=data.filler,
        seed=seed,
        fresh=data.fresh and split == "train",
    )


def copy_experiment(config: SynthTrainConfig) -> Experiment:
    """Assemble model, objective and sequences of either task."""
    data, seed = config.data, config.seed
    is_recall = data.task == "recall"
    draw = recall_dataset if is_recall else copy_dataset
    return Experiment(
        build_copy_model(config),
        RecallObjective() if is_recall else CopyObjective(data.length),
        train_data=draw(data, "train", data.n_train, seed),
        val_data=draw(data, "val", data.n_val, seed),
        test_data=draw(data, "test", data.n_test, seed),
    )


def train_to_copy(config: SynthTrainConfig, resume: RunDirectory | None = None) -> None:
    """Train and test; then, if the model can, decode some test sequences token by token."""
    experiment = copy_experiment(config)
    trainer = train_and_test(config, experiment, config.model.dim, resume)
    if not trainer.accelerator.is_main_process:
        return
    if not can_decode(config):
        print("not decoded token by token: rule: chunk keeps no state")
        return
    some = [experiment.test_data[i] for i in range(min(_DECODED, config.data.n_test))]
    batch = send_to_device(default_collate(some), trainer.accelerator.device)
    model = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(experiment.objective, RecallObjective):
        found = {"test/decoded_accuracy": experiment.objective.decoded_accuracy(model, batch)}
        result = f"{found['test/decoded_accuracy']:.2%} of the answers in {len(some)} test sequences correct"
    else:
        assert isinstance(experiment.objective, CopyObjective)
        found = {"test/generated_accuracy": experiment.objective.generated_accuracy(model, batch)}
        result = f"{found['test/generated_accuracy']:.2%} of the symbols in {len(some)} test words copied"
    found["state_bytes"] = model.eval().state_size(config.data.n_inputs)
    add_figures(trainer.run, found)
    print(f"decoded token by token: {result}, {found['state_bytes']:,} bytes of state per sequence")


def can_decode(config: SynthTrainConfig) -> bool:
    """Whether the model can be decoded step by step; the paper's chunk rule cannot."""
    return all(getattr(attention, "rule", "bucket") == "bucket" for attention in config.model.mechanisms)
