"""lm_train.py: train a language model."""

from pathlib import Path

import torch

from dl_proj.checkpoint_folder import TOKENIZER
from dl_proj.experiments.experiment import Experiment, train_and_test
from dl_proj.experiments.language.data import load_text
from dl_proj.experiments.language.masking import MaskedWindows
from dl_proj.experiments.language.objective import CausalObjective, MaskedObjective
from dl_proj.experiments.language.settings import LanguageTrainConfig, MaskedConfig
from dl_proj.models.build import build_language_model
from dl_proj.models.language import LanguageModel
from dl_proj.text.tokenizers import Tokenizer
from my_custom_ai.custom_train import RunDirectory


def build_configured(config: LanguageTrainConfig, tokenizer: Tokenizer) -> LanguageModel:
    """The model, its initial weights drawn from the configuration's seed."""
    torch.manual_seed(config.seed)
    return build_language_model(
        config.model,
        causal=config.causal,
        vocab_size=tokenizer.n_symbols if config.causal else tokenizer.vocab_size,  # a causal model knows no mask
        max_len=config.data.window,
        seed=config.seed,
    )


def language_experiment(config: LanguageTrainConfig, saved: Path | None = None) -> Experiment:
    """Model, objective and text; subwords are those in a folder, if given, or else learnt from the training text."""
    ahead = 1 if config.causal else 0
    saved_tokenizer = None if saved is None else saved / TOKENIZER
    text = load_text(config.data, seed=config.seed, ahead=ahead, saved_tokenizer=saved_tokenizer)
    splits = {"train_data": text.train, "val_data": text.val, "test_data": text.test}
    if isinstance(config.objective, MaskedConfig):
        rule = {"share": config.objective.share, "whole_word": config.objective.whole_word}
        splits = {name: MaskedWindows(windows, text.tokenizer, config.seed, **rule) for name, windows in splits.items()}
    model = build_configured(config, text.tokenizer)
    objective = CausalObjective() if config.causal else MaskedObjective()
    return Experiment(model, objective, **splits, tokenizer=text.tokenizer)


def train_language_model(config: LanguageTrainConfig, resume: RunDirectory | None = None) -> None:
    """Train and test."""
    begun = resume is not None and (resume.path / TOKENIZER).is_file()  # a kill may have come first
    experiment = language_experiment(config, resume.path if begun else None)
    train_and_test(config, experiment, config.model.dim, resume)
