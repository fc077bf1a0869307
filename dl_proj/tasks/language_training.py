"""lm_train.py: train a language model."""

from pathlib import Path

import torch

from dl_proj.checkpoint_folder import TOKENIZER
from dl_proj.configs.language import LanguageTrainConfig, MaskedConfig
from dl_proj.data.masking import MaskedWindows
from dl_proj.data.text import load_text
from dl_proj.experiment import Experiment, train
from dl_proj.models.build import build_language_model
from dl_proj.models.language import LanguageModel
from dl_proj.tasks.language_modelling import CausalTask, MaskedTask
from my_custom_ai.custom_train import RunDirectory


def build_model(config: LanguageTrainConfig, vocab_size: int) -> LanguageModel:
    """The model, its initial weights drawn from the configuration's seed."""
    torch.manual_seed(config.seed)
    return build_language_model(
        config.model, causal=config.causal, vocab_size=vocab_size, max_len=config.data.window, seed=config.seed
    )


def language_experiment(config: LanguageTrainConfig, folder: Path | None = None) -> Experiment:
    """Model, task and text.

    Args:
        config: the training's.
        folder: of a run or a checkpoint, whose tokenizer is taken, if it has one.
    """
    saved = None if folder is None or not (folder / TOKENIZER).is_file() else folder / TOKENIZER
    text = load_text(config.data, seed=config.seed, ahead=1 if config.causal else 0, saved_tokenizer=saved)
    splits = {"train_data": text.train, "val_data": text.val, "test_data": text.test}
    if isinstance(config.objective, MaskedConfig):
        rule = {"share": config.objective.share, "whole_word": config.objective.whole_word}
        splits = {
            name: MaskedWindows(windows, text.tokenizer, config.seed, **rule) for name, windows in splits.items()
        }
    model = build_model(config, text.tokenizer.vocab_size)
    task = CausalTask() if config.causal else MaskedTask()
    return Experiment(model, task, **splits, tokenizer=text.tokenizer)


def train_language_model(config: LanguageTrainConfig, resume: RunDirectory | None = None) -> None:
    """Train and test."""
    experiment = language_experiment(config, None if resume is None else resume.path)
    train(config, experiment, config.model.dim, resume)
