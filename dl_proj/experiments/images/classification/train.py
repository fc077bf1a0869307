"""cls_train.py: train an image classifier, and write its confusion matrix."""

from pathlib import Path

import torch

from dl_proj.experiments.experiment import Experiment, add_figures, train_and_test
from dl_proj.experiments.images.classification.confusion import per_class_accuracy, write_confusion
from dl_proj.experiments.images.classification.objective import ClassificationObjective, confusion_matrix
from dl_proj.experiments.images.classification.settings import ClassifierConfig, ClassifierTrainConfig
from dl_proj.experiments.images.data import load_configured
from dl_proj.experiments.images.settings import ClassifierDataConfig
from dl_proj.models.baseline_settings import ConvolutionConfig, LinearConfig
from dl_proj.models.build import build_positions, build_stack
from dl_proj.models.classification import ClassificationModel, PatchEmbedding
from dl_proj.models.image_baselines import ConvolutionalClassifier, LinearClassifier
from my_custom_ai.custom_train import RunDirectory
from my_transformers.settings import Places

AnyClassifier = ClassificationModel | LinearClassifier | ConvolutionalClassifier


def build_classification_model(config: ClassifierTrainConfig, n_classes: int) -> AnyClassifier:
    """Build the model, with initial weights drawn from the configuration's seed."""
    torch.manual_seed(config.seed)
    data, model = config.data, config.model
    if isinstance(model, ClassifierConfig):
        return build_classifier(model, data, n_classes=n_classes, seed=config.seed)
    return build_baseline(model, data, n_classes=n_classes)


def build_baseline(
    config: LinearConfig | ConvolutionConfig, data: ClassifierDataConfig, *, n_classes: int
) -> LinearClassifier | ConvolutionalClassifier:
    """Build a model without attention, for whole images."""
    channels, side, levels = data.channels, data.side, data.vocab_size
    if isinstance(config, LinearConfig):
        return LinearClassifier(channels=channels, side=side, vocab_size=levels, n_classes=n_classes)
    return ConvolutionalClassifier(
        channels=channels,
        side=side,
        vocab_size=levels,
        n_classes=n_classes,
        widths=config.channels,
        dropout=config.dropout,
    )


def build_classifier(
    config: ClassifierConfig, data: ClassifierDataConfig, *, n_classes: int, seed: int = 0
) -> ClassificationModel:
    """Build a model that classifies images as sequences of patches."""
    columns = None if data.split_channels else data.columns
    places = Places(config.length(data), columns, off_grid=config.length(data) - data.length)
    return ClassificationModel(
        PatchEmbedding(
            dim=config.dim,
            values=data.values,
            vocab_size=data.vocab_size,
            kind=config.embedding,
            patch_size=data.patch_size,
            patch_stride=data.patch_stride,
            split_channels=data.split_channels,
        ),
        build_stack(config, causal=False, places=places, seed=seed),
        build_positions(config.positions, dim=config.dim, places=places),
        dim=config.dim,
        n_classes=n_classes,
        pooling=config.pooling,
        dropout=config.dropout,
    )


def classification_experiment(config: ClassifierTrainConfig) -> Experiment:
    """Assemble model, objective and images."""
    images = load_configured(config.data, config.train.num_workers)
    return Experiment(
        build_classification_model(config, len(images.classes)),
        ClassificationObjective(config.data.random_shift),
        train_data=images.train,
        val_data=images.val,
        test_data=images.test,
        classes=images.classes,
    )


def train_classifier(config: ClassifierTrainConfig, resume: RunDirectory | None = None) -> None:
    """Train, test, and write the test images' confusion matrix into the run's folder."""
    experiment = classification_experiment(config)
    trainer = train_and_test(config, experiment, config.model.dim, resume)
    if trainer.accelerator.is_main_process:
        figures = leave_confusion(
            experiment, trainer.run.path, batch_size=config.train.eval_batch_size, device=trainer.accelerator.device
        )
        add_figures(trainer.run, {f"test/{name}": value for name, value in figures.items()})


def leave_confusion(experiment: Experiment, folder: Path, *, batch_size: int, device: torch.device) -> dict[str, float]:
    """Write the test images' confusion matrix into a folder; returns the accuracy on each class."""
    counts = confusion_matrix(
        experiment.model,
        experiment.test_data,
        n_classes=len(experiment.classes),
        batch_size=batch_size,
        device=device,
    )
    write_confusion(counts, experiment.classes, folder)
    return per_class_accuracy(counts, experiment.classes)
