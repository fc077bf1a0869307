"""translation_train.py: train an encoder-decoder on sentence pairs."""

import os
from pathlib import Path

import torch

from dl_proj.checkpoint_folder import TOKENIZER
from dl_proj.experiments.experiment import Experiment, train_and_test
from dl_proj.experiments.starting_weights import folder_with_tokens
from dl_proj.experiments.translation.data import load_pairs, say_counts
from dl_proj.experiments.translation.objective import TranslationObjective
from dl_proj.experiments.translation.sentences import PairTokenizers, saved_tokenizers, tokenizer_paths
from dl_proj.experiments.translation.settings import TranslationTrainConfig
from dl_proj.models.build import build_encoder_decoder
from dl_proj.models.translation import EncoderDecoderModel
from my_custom_ai.custom_train import RunDirectory


def build_configured(config: TranslationTrainConfig, tokenizers: PairTokenizers) -> EncoderDecoderModel:
    """Build the model, with initial weights drawn from the configuration's seed."""
    torch.manual_seed(config.seed)
    return build_encoder_decoder(
        config.model,
        source_vocab_size=tokenizers.source.vocab_size,
        target_vocab_size=tokenizers.target.vocab_size,
        max_source_len=config.data.max_length,
        max_target_len=config.data.max_length,
        seed=config.seed,
    )


def saved_beside(config: TranslationTrainConfig, folder: Path) -> PairTokenizers:
    """Load the tokenizers in a checkpoint's folder."""
    return saved_tokenizers(folder / TOKENIZER, joint=config.data.tokenizer.joint)


def translation_experiment(config: TranslationTrainConfig, saved: Path | None = None) -> Experiment:
    """Assemble model, objective and pairs; tokenizers are loaded from ``saved``, or else trained on the pairs."""
    tokenizers = None if saved is None else saved_beside(config, saved)
    pairs = load_pairs(config.data, seed=config.seed, saved=tokenizers)
    if os.environ.get("RANK", "0") == "0":  # set by torchrun; the accelerator does not exist yet
        say_counts(pairs, config.data)
    objective = TranslationObjective(
        pairs.tokenizers.target, label_smoothing=config.label_smoothing, max_length=config.data.max_length
    )
    return Experiment(
        build_configured(config, pairs.tokenizers),
        objective,
        train_data=pairs.train,
        val_data=pairs.val,
        test_data=pairs.test,
        tokenizer=pairs.tokenizers,
    )


def train_translator(config: TranslationTrainConfig, resume: RunDirectory | None = None) -> None:
    """Train and test."""
    begun = None if resume is None else _folder_with_tokenizers(config, resume)
    experiment = translation_experiment(config, folder_with_tokens(config, resume, begun))
    train_and_test(config, experiment, config.model.dim, resume)


def _folder_with_tokenizers(config: TranslationTrainConfig, run: RunDirectory) -> Path | None:
    """Return a run's folder if it has its tokenizers; it may have been killed before."""
    paths = tokenizer_paths(run.path / TOKENIZER, joint=config.data.tokenizer.joint)
    return run.path if all(path.is_file() for path in paths) else None
