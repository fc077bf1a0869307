"""translation_train.py: train an encoder-decoder on sentence pairs."""

from pathlib import Path

import torch

from dl_proj.configs.translation import TranslationTrainConfig
from dl_proj.data.pairs import SentenceTokenizers, load_pairs, saved_tokenizers
from dl_proj.experiment import Experiment, train
from dl_proj.models.build import build_encoder_decoder
from dl_proj.models.translation import EncoderDecoderModel
from dl_proj.tasks.translating import TranslationTask
from my_custom_ai.custom_train import RunDirectory


def build_configured(config: TranslationTrainConfig, tokenizers: SentenceTokenizers) -> EncoderDecoderModel:
    """The model, its initial weights drawn from the configuration's seed."""
    torch.manual_seed(config.seed)
    return build_encoder_decoder(
        config.model,
        source_vocab_size=tokenizers.source.vocab_size,
        target_vocab_size=tokenizers.target.vocab_size,
        max_source_len=config.data.max_length,
        max_target_len=config.data.max_length,
        seed=config.seed,
    )


def translation_experiment(config: TranslationTrainConfig, saved: Path | None = None) -> Experiment:
    """Model, task and pairs; subwords are those in a folder, if it is given, or else learnt from the training pairs."""
    tokenizers = None if saved is None else saved_tokenizers(config.data.tokenizer, saved)
    pairs = load_pairs(config.data, seed=config.seed, tokenizers=tokenizers)
    task = TranslationTask(
        pairs.tokenizers.target, label_smoothing=config.label_smoothing, max_len=config.data.max_length
    )
    model = build_configured(config, pairs.tokenizers)
    return Experiment(model, task, pairs.train, pairs.val, pairs.test, tokenizer=pairs.tokenizers)


def train_translator(config: TranslationTrainConfig, resume: RunDirectory | None = None) -> None:
    """Train and test."""
    experiment = translation_experiment(config, None if resume is None else resume.path)
    train(config, experiment, config.model.dim, resume)
