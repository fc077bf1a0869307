"""lm_train.py: train a language model."""

from pathlib import Path

import torch

from dl_proj.checkpoint_folder import TOKENIZER
from dl_proj.experiments.experiment import Experiment, train_and_test
from dl_proj.experiments.language.data import Windows, load_text
from dl_proj.experiments.language.masking import MaskedWindows
from dl_proj.experiments.language.objective import CausalObjective, MaskedObjective
from dl_proj.experiments.language.settings import LanguageTrainConfig, MaskedConfig
from dl_proj.experiments.starting_weights import folder_with_tokens
from dl_proj.models.build import build_language_model
from dl_proj.models.generation import AutoregressiveModel
from dl_proj.models.language import LanguageModel
from dl_proj.text.tokenizers import Tokenizer
from my_custom_ai.custom_train import RunDirectory


def build_configured(config: LanguageTrainConfig, tokenizer: Tokenizer) -> LanguageModel | AutoregressiveModel:
    """Build the model, with initial weights drawn from the configuration's seed."""
    torch.manual_seed(config.seed)
    return build_language_model(
        config.model,
        causal=config.causal,
        vocab_size=tokenizer.n_symbols if config.causal else tokenizer.vocab_size,  # only a masked model has a mask
        max_len=config.data.window,
        seed=config.seed,
    )


def language_experiment(config: LanguageTrainConfig, saved: Path | None = None) -> Experiment:
    """Assemble model, objective and text; the tokenizer is loaded from ``saved``, or else trained on the text."""
    ahead = 1 if config.causal else 0
    saved_tokenizer = None if saved is None else saved / TOKENIZER
    text = load_text(config.data, seed=config.seed, ahead=ahead, saved_tokenizer=saved_tokenizer)
    train, val, test = (_examples(config, windows, text.tokenizer) for windows in (text.train, text.val, text.test))
    return Experiment(
        build_configured(config, text.tokenizer),
        CausalObjective() if config.causal else MaskedObjective(),
        train_data=train,
        val_data=val,
        test_data=test,
        tokenizer=text.tokenizer,
    )


def _examples(config: LanguageTrainConfig, windows: Windows, tokenizer: Tokenizer) -> Windows | MaskedWindows:
    """Return the windows, for masked models with some tokens masked."""
    rule = config.objective
    if not isinstance(rule, MaskedConfig):
        return windows
    return MaskedWindows(windows, tokenizer, config.seed, share=rule.share, whole_word=rule.whole_word)


def train_language_model(config: LanguageTrainConfig, resume: RunDirectory | None = None) -> None:
    """Train and test."""
    begun = None if resume is None else _folder_with_tokenizer(resume)
    experiment = language_experiment(config, folder_with_tokens(config, resume, begun))
    train_and_test(config, experiment, config.model.dim, resume)


def _folder_with_tokenizer(run: RunDirectory) -> Path | None:
    """Return a run's folder if it has its tokenizer; it may have been killed before."""
    return run.path if (run.path / TOKENIZER).is_file() else None
