"""lra_train.py: train a classifier of long sequences."""

import torch

from dl_proj.experiments.experiment import Experiment, train_and_test
from dl_proj.experiments.images.classification.objective import ClassificationObjective
from dl_proj.experiments.long_range.data import load_task
from dl_proj.experiments.long_range.settings import LongRangeTrainConfig
from dl_proj.models.build import build_positions, build_stack
from dl_proj.models.classification import SequenceClassifier
from dl_proj.tables import markdown
from my_custom_ai.custom_train import RunDirectory
from my_transformers.settings import Places


def build_sequence_classifier(config: LongRangeTrainConfig, n_classes: int) -> SequenceClassifier:
    """Build the model, with initial weights drawn from the configuration's seed."""
    torch.manual_seed(config.seed)
    model, data = config.model, config.data
    places = Places(model.length(data), off_grid=model.length(data) - data.max_length)
    return SequenceClassifier(
        build_stack(model, causal=False, places=places, seed=config.seed),
        build_positions(model.positions, dim=model.dim, places=places),
        dim=model.dim,
        vocab_size=data.vocab_size,
        n_classes=n_classes,
        hidden=model.classifier_dim or model.ffn_dim,
        together=data.PER_EXAMPLE,
        pooling=model.pooling,
        dropout=model.dropout,
    )


def long_range_experiment(config: LongRangeTrainConfig) -> Experiment:
    """Assemble model, objective and sequences."""
    task = load_task(config.data)
    return Experiment(
        build_sequence_classifier(config, len(task.classes)),
        ClassificationObjective(),
        train_data=task.train,
        val_data=task.val,
        test_data=task.test,
        classes=task.classes,
    )


def train_long_range(config: LongRangeTrainConfig, resume: RunDirectory | None = None) -> None:
    """Train, test, and print the result beside published ones."""
    trainer = train_and_test(config, long_range_experiment(config), config.model.dim, resume)
    if trainer.accelerator.is_main_process:
        ours = {"source": str(trainer.run.path), "attention": config.model.attention_title}
        accuracy = trainer.run.figures()["test/accuracy"]
        print(f"\n{markdown([ours | {'test accuracy': accuracy}, *config.published])}")
