"""Builders from configurations to modules; everything below them takes plain arguments."""

from typing import assert_never

from dl_proj.models.attention_settings import AttentionConfig
from dl_proj.models.generation import AutoregressiveModel
from dl_proj.models.language import LanguageModel
from dl_proj.models.settings import (
    AxialPositionsConfig,
    EncoderDecoderConfig,
    LanguageModelConfig,
    LearnedPositionsConfig,
    LearnedSinusoidalPositionsConfig,
    NoPositionsConfig,
    PositionsConfig,
    SinusoidalPositionsConfig,
    StackConfig,
)
from dl_proj.models.translation import EncoderDecoderModel
from my_transformers import (
    AxialPositionalEncoding,
    DecoderLayer,
    DecoderStack,
    EncoderLayer,
    EncoderStack,
    FeedForward,
    LearnedPositionalEncoding,
    LearnedSinusoidalPositionalEncoding,
    MultiHeadAttention,
    NoPositionalEncoding,
    ReversibleDecoderStack,
    ReversibleStack,
    SinusoidalPositionalEncoding,
)
from my_transformers.mechanism import Mechanism
from my_transformers.positional_encoding import PositionalEncoding
from my_transformers.settings import Places, Site


def build_mechanisms(
    config: AttentionConfig,
    *,
    depth: int,
    heads: int,
    head_dim: int,
    causal: bool,
    places: Places,
    seed: int = 0,
    every: int = 1,
) -> list[Mechanism]:
    """Build the attention mechanisms of ``depth`` layers with the same configuration.

    Layer i gets the seed ``seed + i * every``. ``every`` is the layer stride: if the model alternates between several
    mechanisms, it keeps the seeds of all layers distinct.
    """
    seeds = tuple(seed + i * every for i in range(depth))
    return config.settings.build(Site(heads, head_dim, causal, places, seeds))


def build_positions(config: PositionsConfig, *, dim: int, places: Places) -> PositionalEncoding:
    """Build the positional encoding of a configuration."""
    match config:
        case LearnedPositionsConfig():
            return LearnedPositionalEncoding(dim, places.max_len)
        case SinusoidalPositionsConfig(amplitude=amplitude):
            return SinusoidalPositionalEncoding(dim, places.max_len, amplitude=amplitude)
        case AxialPositionsConfig():
            return AxialPositionalEncoding(dim, config.shape, dims=config.dims)
        case LearnedSinusoidalPositionsConfig():
            return LearnedSinusoidalPositionalEncoding(
                dim, places.max_len, columns=places.columns, off_grid=places.off_grid, longest=places.longest
            )
        case NoPositionsConfig():
            return NoPositionalEncoding(places.max_len)
        case _:
            assert_never(config)


def build_stack(config: StackConfig, *, causal: bool, places: Places, seed: int = 0) -> EncoderStack | ReversibleStack:
    """Build a stack of layers with the configured attention."""
    layers = [
        EncoderLayer(
            _multi_head(mechanism, config),
            _feed_forward(config),
            dim=config.dim,
            norm=config.norm,
            norm_epsilon=config.norm_epsilon,
            dropout=config.dropout,
        )
        for mechanism in _mechanisms_of(config, causal, places, seed)
    ]
    dim, epsilon = config.dim, config.norm_epsilon
    if config.reversible:
        return ReversibleStack(layers, dim=dim, norm_epsilon=epsilon, streams=config.streams)
    return EncoderStack(layers, dim=dim, norm_epsilon=epsilon, recompute=config.recompute)


def _mechanisms_of(config: StackConfig, causal: bool, places: Places, seed: int) -> list[Mechanism]:
    """Build the mechanism of each layer."""
    of_layer: dict[int, Mechanism] = {}
    for number, attention in enumerate(config.mechanisms):
        layers = config.layers_of(number)
        built = build_mechanisms(
            attention,
            depth=len(layers),
            heads=config.heads,
            head_dim=config.head_dim or config.dim // config.heads,
            causal=causal,
            places=places,
            seed=seed + number,
            every=layers.step,
        )
        of_layer |= dict(zip(layers, built, strict=True))
    return [of_layer[i] for i in range(config.depth)]


def _multi_head(mechanism: Mechanism, config: StackConfig) -> MultiHeadAttention:
    return MultiHeadAttention(
        mechanism, dim=config.dim, heads=config.heads, head_dim=config.head_dim, bias=config.attention_bias
    )


def _feed_forward(config: StackConfig) -> FeedForward:
    return FeedForward(
        config.dim,
        config.ffn_dim,
        activation=config.activation,
        dropout=config.dropout,
        chunk_size=config.ffn_chunk_size,
    )


def build_autoregressive(
    config: StackConfig,
    *,
    vocab_size: int,
    max_len: int,
    columns: int | None = None,
    n_labels: int = 0,
    tied: bool = False,
    seed: int = 0,
) -> AutoregressiveModel:
    """Build a causal model of token sequences, conditional on a label if ``n_labels``; ``columns``: of a token grid."""
    places = Places(max_len, columns, off_grid=1 if n_labels else 0)  # the label comes first
    return AutoregressiveModel(
        build_stack(config, causal=True, places=places, seed=seed),
        build_positions(config.positions, dim=config.dim, places=places),
        dim=config.dim,
        vocab_size=vocab_size,
        n_labels=n_labels,
        tied=tied,
        dropout=config.dropout,
    )


def build_language_model(
    config: LanguageModelConfig, *, causal: bool, vocab_size: int, max_len: int, seed: int = 0
) -> LanguageModel | AutoregressiveModel:
    """Build a model of text: one that continues it if causal, otherwise one that fills in masked tokens."""
    if causal:
        return build_autoregressive(config, vocab_size=vocab_size, max_len=max_len, tied=config.tied, seed=seed)
    places = Places(max_len)
    return LanguageModel(
        build_stack(config, causal=False, places=places, seed=seed),
        build_positions(config.positions, dim=config.dim, places=places),
        dim=config.dim,
        vocab_size=vocab_size,
        tied=config.tied,
        dropout=config.dropout,
    )


def build_encoder_decoder(
    config: EncoderDecoderConfig,
    *,
    source_vocab_size: int,
    target_vocab_size: int,
    max_source_len: int,
    max_target_len: int,
    seed: int = 0,
) -> EncoderDecoderModel:
    """Build a model of target sequences given source sequences."""
    source, target = Places(max_source_len), Places(max_target_len)
    return EncoderDecoderModel(
        build_stack(config.encoder, causal=False, places=source, seed=seed),
        _decoder(config, source, target, seed + config.encoder_depth),
        build_positions(config.positions, dim=config.dim, places=source),
        build_positions(config.positions, dim=config.dim, places=target),
        dim=config.dim,
        source_vocab_size=source_vocab_size,
        target_vocab_size=target_vocab_size,
        tied=config.tied,
        dropout=config.dropout,
    )


def _decoder(
    config: EncoderDecoderConfig, source: Places, target: Places, seed: int
) -> DecoderStack | ReversibleDecoderStack:
    own, across = config.decoder, config.across
    layers = [
        DecoderLayer(
            _multi_head(self_attention, own),
            _multi_head(cross_attention, across),
            _feed_forward(own),
            dim=config.dim,
            norm=config.norm,
            norm_epsilon=config.norm_epsilon,
            dropout=config.dropout,
        )
        for self_attention, cross_attention in zip(
            _mechanisms_of(own, True, target, seed),
            _mechanisms_of(across, False, source, seed + config.decoder_depth),
            strict=True,
        )
    ]
    dim, epsilon = config.dim, config.norm_epsilon
    if config.reversible:
        return ReversibleDecoderStack(layers, dim=dim, norm_epsilon=epsilon)
    return DecoderStack(layers, dim=dim, norm_epsilon=epsilon, recompute=config.recompute)
