"""A training whose batches are bounded by tokens: its length and schedule follow from the true number of batches."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import dl_proj.experiments.experiment
from dl_proj.experiments.experiment import Experiment, train_and_test
from dl_proj.experiments.settings import ExperimentConfig, PaceConfig, TranslationPaceConfig
from dl_proj.experiments.translation.sentences import PairTokenizers, learn_sentences
from dl_proj.settings.errors import ConfigError


class TokenConfig(ExperimentConfig):
    train: TranslationPaceConfig


class Handed(Exception):
    """Carries what the trainer was made of, in place of training."""


@pytest.fixture
def hand_over(monkeypatch):
    def stop(*_, **arguments):
        raise Handed(arguments)

    monkeypatch.setattr(dl_proj.experiments.experiment, "Trainer", stop)

    def call(sizes, tokenizer=None, warmup=0, **pace):
        data = TensorDataset(torch.arange(len(sizes)))
        data.sizes = np.array(sizes)
        settings = {"train": pace | {"device": "cpu"}, "schedule": {"kind": "constant", "warmup_steps": warmup}}
        experiment = Experiment(torch.nn.Linear(1, 1), None, data, data, data, tokenizer=tokenizer)
        with pytest.raises(Handed) as end:
            train_and_test(TokenConfig(experiment_name="x", **settings), experiment, 8, None)
        return end.value.args[0]

    return call


def test_a_batch_is_bounded_by_tokens_alone():
    assert set(TranslationPaceConfig.model_fields) - set(PaceConfig.model_fields) == {"batch_tokens"}


def test_epochs_count_the_batches_that_there_are(hand_over):
    sizes = [1] * 8 + [2] * 8 + [8] * 3  # one batch of 8, two of 4 (2 tokens each), three of one
    pace = hand_over(sizes, epochs=5, batch_tokens=8)["pace"]
    assert (pace.total_steps, pace.batch_tokens, pace.batch_size) == (5 * 6, 8, None)
    assert hand_over(sizes, epochs=5, batch_tokens=8, accumulate=4)["pace"].total_steps == 5 * 6 // 4
    assert hand_over(sizes, max_steps=3, batch_tokens=8)["pace"].total_steps == 3


def test_processes_share_the_batches_of_an_epoch(hand_over, monkeypatch):
    two = SimpleNamespace(num_processes=2, is_main_process=True)
    monkeypatch.setattr(dl_proj.experiments.experiment, "start", lambda *_, **settings: two)
    assert hand_over([4] * 7, epochs=5, batch_tokens=4)["pace"].total_steps == 5 * 3
    with pytest.raises(ConfigError, match=r"^train.batch_tokens: 1 training examples make 1 batches .* 2 process"):
        hand_over([4], epochs=5, batch_tokens=4)


def test_a_warmup_beyond_the_training_is_refused(hand_over):
    with pytest.raises(ConfigError, match=r"schedule.warmup_steps 3 must be less than the 3 steps"):
        hand_over([4, 4, 4], epochs=1, batch_tokens=4, warmup=3)
    hand_over([4, 4, 4], epochs=1, batch_tokens=4, warmup=2)


def test_a_sentence_over_the_bound_is_refused(hand_over):
    with pytest.raises(
        ConfigError, match=r"^train.batch_tokens: an example of 9 tokens does not fit into a batch of 8;"
    ):
        hand_over([4, 9], epochs=1, batch_tokens=8)
    assert not Path("runs").exists()


def test_both_tokenizers_are_saved_with_the_run(hand_over):
    one, other = (learn_sentences(["a b"], size) for size in (256, 257))
    run = hand_over([1], tokenizer=PairTokenizers(one, other), epochs=1)["run"]
    for folder in (run.path, run.best):
        assert {path.name for path in folder.glob("*tokenizer.json")} == {
            "source_tokenizer.json",
            "target_tokenizer.json",
        }
    run = hand_over([1], tokenizer=PairTokenizers(one, one), epochs=1)["run"]
    assert (run.best / "tokenizer.json").is_file() and not (run.best / "source_tokenizer.json").exists()
