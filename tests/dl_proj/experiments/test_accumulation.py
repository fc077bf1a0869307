"""Every experiment's update is the same however its batch is split and accumulated."""

from pathlib import Path

import pytest
import torch
from tiny_scripts import TEXT, tiny, tiny_classifier, tiny_generator, tiny_language, tiny_translation, write_pairs
from torch.utils.data import Dataset

from dl_proj.experiments.copy.settings import SynthTrainConfig
from dl_proj.experiments.copy.train import copy_experiment
from dl_proj.experiments.images.classification.settings import ClassifierTrainConfig
from dl_proj.experiments.images.classification.train import classification_experiment
from dl_proj.experiments.images.generation.settings import GeneratorTrainConfig
from dl_proj.experiments.images.generation.train import generation_experiment
from dl_proj.experiments.language.settings import LanguageTrainConfig
from dl_proj.experiments.language.train import language_experiment
from dl_proj.experiments.translation.settings import TranslationTrainConfig
from dl_proj.experiments.translation.train import translation_experiment
from my_custom_ai.custom_train import Pace, RunDirectory, Trainer, start

PLAIN = {"model.dropout": 0.0, "model.attention": {"kind": "full"}}
SMOOTHED = {"model.dropout": 0.0, "label_smoothing": 0.1}
EXPERIMENTS = {
    "copy": lambda: copy_experiment(SynthTrainConfig(**tiny(PLAIN))),
    "classification": lambda: classification_experiment(ClassifierTrainConfig(**tiny_classifier(PLAIN))),
    "generation": lambda: generation_experiment(
        GeneratorTrainConfig(**tiny_generator(PLAIN | {"loss": {"kind": "focal", "frequency_power": 0.5}}))
    ),
    "language": lambda: language_experiment(LanguageTrainConfig(**tiny_language(PLAIN))),
    "masked language": lambda: language_experiment(
        LanguageTrainConfig(**tiny_language(PLAIN | {"objective": {"kind": "masked", "whole_word": True}}))
    ),
    "translation": lambda: translation_experiment(TranslationTrainConfig(**tiny_translation(SMOOTHED))),
}
UNEVEN = {"masked language", "translation"}  # whose examples differ in what they count


class First(Dataset):
    """The first ``size`` examples of a dataset, with its epochs and its way of putting examples together."""

    def __init__(self, dataset, size):
        self.dataset, self.size = dataset, size
        for name in {"collate", "set_epoch"} & set(dir(dataset)):
            setattr(self, name, getattr(dataset, name))

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return self.dataset[index]


class Watched:
    """A task that keeps how much the loss of each training batch counts."""

    def __init__(self, task):
        self.objective, self.counts = task, []

    def measure(self, model, batch):
        ratios = self.objective.measure(model, batch)
        if model.training:
            self.counts.append(int(ratios["loss"].count))
        return ratios


def trained(name, batch_size, accumulate):
    """Weights in float64 after two updates of six examples each, the weights before, and the batches' counts."""
    experiment = EXPERIMENTS[name]()
    model = experiment.model.double()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    task = Watched(experiment.objective)
    Trainer(
        model,
        task,
        torch.optim.SGD(model.parameters(), lr=0.1),
        train_data=First(experiment.train_data, 6),
        val_data=First(experiment.val_data, 1),
        run=RunDirectory(Path(f"run_{batch_size}")),
        pace=Pace(total_steps=2, eval_batch_size=1, batch_size=batch_size, accumulate=accumulate),
        accelerator=start("cpu"),
    ).fit()
    return model.state_dict(), before, task.counts


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_accumulated_batches_are_one_batch(name):
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    write_pairs()
    whole, before, _ = trained(name, 6, 1)
    for batch_size, accumulate in ((2, 3), (1, 6)):
        parts, _, counts = trained(name, batch_size, accumulate)
        assert len(counts) == 2 * accumulate and (len(set(counts)) > 1) == (name in UNEVEN)
        close = {"rtol": 1e-5, "atol": 1e-7} if name == "generation" else {"rtol": 1e-9, "atol": 1e-12}
        for key, value in whole.items():  # the losses of pixels are computed in float32
            torch.testing.assert_close(parts[key], value, **close)
    assert max((whole[key] - value).abs().max().item() for key, value in before.items()) > 1e-3
