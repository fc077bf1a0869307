"""generation_train.py: train a class-conditional generator of small images."""

import torch

from dl_proj.experiments.experiment import Experiment, train_and_test
from dl_proj.experiments.images.data import Images, load_configured
from dl_proj.experiments.images.generation.draw import draw, draw_grid
from dl_proj.experiments.images.generation.objective import PixelObjective, count_levels, frequency_weights
from dl_proj.experiments.images.generation.settings import FocalConfig, GeneratorTrainConfig
from dl_proj.models.build import build_autoregressive
from dl_proj.models.generation import AutoregressiveModel
from my_custom_ai.custom_train import RunDirectory


def build_generator(config: GeneratorTrainConfig, n_labels: int) -> AutoregressiveModel:
    """Build the model, with initial weights drawn from the configuration's seed."""
    torch.manual_seed(config.seed)
    data = config.data
    return build_autoregressive(
        config.model,
        vocab_size=data.vocab_size,
        max_len=data.max_len,
        columns=data.side,
        n_labels=n_labels,
        seed=config.seed,
    )


def generation_experiment(config: GeneratorTrainConfig) -> Experiment:
    """Assemble model, objective and images."""
    images = load_configured(config.data, config.train.num_workers)
    return Experiment(
        build_generator(config, len(images.classes)),
        _objective(config, images.train),
        train_data=images.train,
        val_data=images.val,
        test_data=images.test,
        classes=images.classes,
    )


def _objective(config: GeneratorTrainConfig, images: Images) -> PixelObjective:
    loss = config.loss
    if not isinstance(loss, FocalConfig):
        return PixelObjective()
    if loss.frequency_power == 0:
        return PixelObjective(loss.gamma)
    counts = count_levels((images[index][0] for index in range(len(images))), config.data.vocab_size)
    return PixelObjective(loss.gamma, frequency_weights(counts, loss.frequency_power))


def train_generator(config: GeneratorTrainConfig, resume: RunDirectory | None = None) -> None:
    """Train and test; then draw samples.png with the model."""
    experiment = generation_experiment(config)
    trainer = train_and_test(config, experiment, config.model.dim, resume)
    if trainer.accelerator.is_main_process and config.samples_per_label:
        labels = torch.arange(len(experiment.classes)).repeat_interleave(config.samples_per_label)
        model = trainer.accelerator.unwrap_model(trainer.model)
        samples = draw(model, labels, config.data, seed=config.seed, device=trainer.accelerator.device)
        rows = samples.unflatten(0, (len(experiment.classes), config.samples_per_label))
        draw_grid(rows, experiment.classes, trainer.run.path / "samples.png")
