"""The one place where a configuration becomes modules; below it everything takes plain arguments."""

from typing import assert_never

from torch import nn

from dl_proj.configs.attention import AttentionConfig, FullConfig, LSHConfig, SharedQKConfig
from dl_proj.configs.images import ClassifierDataConfig
from dl_proj.configs.model import (
    AxialPositionsConfig,
    ClassifierConfig,
    LearnedPositionsConfig,
    PositionsConfig,
    SinusoidalPositionsConfig,
    StackConfig,
)
from dl_proj.models.classification import ClassificationModel, PatchEmbedding
from dl_proj.models.generation import AutoregressiveModel
from my_transformers import (
    AxialPositionalEncoding,
    EncoderLayer,
    EncoderStack,
    FeedForward,
    FullAttention,
    LearnedPositionalEncoding,
    LSHAttention,
    MultiHeadAttention,
    ReversibleStack,
    SharedQKAttention,
    SinusoidalPositionalEncoding,
)
from my_transformers.positional_encoding import PositionalEncoding


def build_mechanism(config: AttentionConfig, *, causal: bool, seed: int = 0) -> nn.Module:
    """The attention mechanism of a configuration; ``seed`` is for one that hashes, another for each layer."""
    match config:
        case FullConfig():
            return FullAttention(causal=causal, dropout=config.dropout)
        case SharedQKConfig():
            return SharedQKAttention(causal=causal, dropout=config.dropout)
        case LSHConfig():
            return LSHAttention(**config.model_dump(exclude={"kind"}), causal=causal, seed=seed)
        case _:
            assert_never(config)


def build_positions(config: PositionsConfig, *, dim: int, max_len: int) -> PositionalEncoding:
    """The positional encoding of a configuration."""
    match config:
        case LearnedPositionsConfig():
            return LearnedPositionalEncoding(dim, max_len)
        case SinusoidalPositionsConfig():
            return SinusoidalPositionalEncoding(dim, max_len)
        case AxialPositionsConfig():
            return AxialPositionalEncoding(dim, config.shape)
        case _:
            assert_never(config)


def build_stack(config: StackConfig, *, causal: bool, seed: int = 0) -> EncoderStack | ReversibleStack:
    """Layers with the configured attention; layer i's hashes come from seed + i."""
    layers = [
        EncoderLayer(
            MultiHeadAttention(
                build_mechanism(config.attention, causal=causal, seed=seed + i),
                dim=config.dim,
                heads=config.heads,
                head_dim=config.head_dim,
            ),
            FeedForward(
                config.dim,
                config.ffn_dim,
                activation=config.activation,
                dropout=config.dropout,
                chunk_size=config.ffn_chunk_size,
            ),
            dim=config.dim,
            norm=config.norm,
            dropout=config.dropout,
        )
        for i in range(config.depth)
    ]
    return (ReversibleStack if config.reversible else EncoderStack)(layers, dim=config.dim)


def build_classifier(
    config: ClassifierConfig, data: ClassifierDataConfig, *, n_classes: int, seed: int = 0
) -> ClassificationModel:
    """A model that classifies images as sequences of patches."""
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
        build_stack(config, causal=False, seed=seed),
        build_positions(config.positions, dim=config.dim, max_len=config.length(data)),
        dim=config.dim,
        n_classes=n_classes,
        pooling=config.pooling,
        dropout=config.dropout,
    )


def build_autoregressive(
    config: StackConfig, *, vocab_size: int, max_len: int, n_labels: int = 0, seed: int = 0
) -> AutoregressiveModel:
    """A causal model of token sequences, conditional on a label if there are any."""
    return AutoregressiveModel(
        build_stack(config, causal=True, seed=seed),
        build_positions(config.positions, dim=config.dim, max_len=max_len),
        dim=config.dim,
        vocab_size=vocab_size,
        n_labels=n_labels,
        dropout=config.dropout,
    )
