"""The one place where a configuration becomes modules; below it everything takes plain arguments."""

from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor, nn

from dl_proj.models.attention_settings import (
    AttentionConfig,
    CausalLinformerConfig,
    ClippedRelativeConfig,
    FullConfig,
    LinformerConfig,
    LocalConfig,
    LSHConfig,
    PerformerConfig,
    RelativeConfig,
    SharedQKConfig,
    TransformersLSHConfig,
)
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
    BlockCausalLinformerAttention,
    ClippedRelativeAttention,
    ConvolutionProjection,
    DecoderLayer,
    DecoderStack,
    EncoderLayer,
    EncoderStack,
    FeedForward,
    FullAttention,
    LearnedPositionalEncoding,
    LearnedProjection,
    LearnedSinusoidalPositionalEncoding,
    LengthProjection,
    LinformerAttention,
    LocalAttention,
    LSHAttention,
    MaxProjection,
    MeanProjection,
    MultiHeadAttention,
    NoPositionalEncoding,
    PerformerAttention,
    RelativeAttention,
    ReversibleDecoderStack,
    ReversibleStack,
    SharedQKAttention,
    SinusoidalPositionalEncoding,
    TransformersLSHAttention,
    extended_dim,
)
from my_transformers.lsh.hashing import draw_rotations
from my_transformers.positional_encoding import PositionalEncoding


@dataclass(frozen=True)
class Places:
    """Where the tokens of a sequence stand.

    Args:
        max_len: tokens at most.
        columns: of the grid that the sequence goes through row by row; None: a line.
        off_grid: so many tokens at the start have no place.
    """

    max_len: int
    columns: int | None = None
    off_grid: int = 0

    @property
    def longest(self) -> float:
        """Tokens: twice the longest side."""
        n = self.max_len - self.off_grid
        return max(4, 2 * (n if self.columns is None else max(self.columns, -(-n // self.columns))))


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
) -> list[nn.Module]:
    """The attention mechanism of a configuration for each of its layers; number i's random numbers: seed + i * every.

    ``every`` so many layers of a model is one of these, so that no two layers of it have the same seed.
    """
    if isinstance(config, LinformerConfig | CausalLinformerConfig):
        return _linformers(config, depth, heads, head_dim, causal, places)
    return [_mechanism(config, heads, head_dim, causal, places, seed + i * every) for i in range(depth)]


def _mechanism(
    config: AttentionConfig, heads: int, head_dim: int, causal: bool, places: Places, seed: int
) -> nn.Module:
    grid = {"heads": heads, "head_dim": head_dim, "columns": places.columns, "off_grid": places.off_grid}
    match config:
        case FullConfig():
            return FullAttention(causal=causal, dropout=config.dropout)
        case SharedQKConfig():
            return SharedQKAttention(causal=causal, dropout=config.dropout)
        case LSHConfig():
            settings = config.model_dump(exclude={"kind"})
            return LSHAttention(**settings, max_len=places.max_len, causal=causal, seed=seed)
        case LocalConfig():
            return LocalAttention(**config.model_dump(exclude={"kind"}), causal=causal)
        case TransformersLSHConfig():
            rotations = _kept_rotations(config, heads, head_dim, seed) if config.keep_rotations else None
            settings = config.model_dump(exclude={"kind", "keep_rotations"})
            return TransformersLSHAttention(**settings, causal=causal, seed=seed, rotations=rotations)
        case PerformerConfig():
            return _performer(config, head_dim, causal, seed)
        case RelativeConfig(n_scales=n_scales, content=content):
            longer = extended_dim(head_dim, n_scales, places.columns)
            inner = _performer(config, longer, causal, seed, turned=longer - head_dim)
            return RelativeAttention(inner, **grid, n_scales=n_scales, content=content, longest=places.longest)
        case ClippedRelativeConfig(distance=distance):
            inner = _performer(config, head_dim, causal, seed)
            return ClippedRelativeAttention(inner, **grid, distance=distance, dropout=config.dropout)
        case _:
            assert_never(config)


def _kept_rotations(config: TransformersLSHConfig, heads: int, head_dim: int, seed: int) -> Tensor:
    n_buckets = sum(config.bucket_factors or (config.n_buckets,))  # two a direction, in each factor
    generator = torch.Generator().manual_seed(seed)
    return draw_rotations(heads, config.n_rounds, head_dim, n_buckets, like=torch.empty(0), generator=generator)


def _performer(
    config: PerformerConfig | RelativeConfig | ClippedRelativeConfig,
    head_dim: int,
    causal: bool,
    seed: int,
    turned: int = 0,
) -> nn.Module:
    if config.kernel == "exact":
        return FullAttention(causal=causal, dropout=config.dropout)
    own = {"kernel", "n_features", "orthogonal", "epsilon", "redraw_every", "chunk_size", "dropout"}
    return PerformerAttention(head_dim, **config.model_dump(include=own), turned=turned, causal=causal, seed=seed)


def _linformers(
    config: LinformerConfig | CausalLinformerConfig, depth: int, heads: int, head_dim: int, causal: bool, places: Places
) -> list[nn.Module]:
    """One a layer; what layers share is the same module."""
    blocks = isinstance(config, CausalLinformerConfig)
    kind = BlockCausalLinformerAttention if blocks else LinformerAttention
    max_len = config.block_size if blocks else places.max_len
    made = [_projection(config, max_len, rank, heads, head_dim) for rank in config.ranks(depth)]
    if config.sharing == "layerwise":
        made = made[:1] * depth
    values = [None] * depth
    if config.sharing in (None, "none", "headwise") and config.projection in ("learned", "convolution"):
        values = [_projection(config, max_len, rank, heads, head_dim) for rank in config.ranks(depth)]
    return [kind(e, f, dropout=config.dropout, causal=causal) for e, f in zip(made, values, strict=True)]


def _projection(
    config: LinformerConfig | CausalLinformerConfig, max_len: int, rank: int, heads: int, head_dim: int
) -> LengthProjection:
    each = heads if config.sharing == "none" else None
    match config.projection:
        case "learned":
            return LearnedProjection(max_len, rank, heads=each, start=config.start)
        case "mean":
            return MeanProjection(max_len, rank)
        case "max":
            return MaxProjection(max_len, rank)
        case "convolution":
            return ConvolutionProjection(max_len, rank, head_dim=head_dim, heads=each)
        case _:
            assert_never(config.projection)


def build_positions(config: PositionsConfig, *, dim: int, places: Places) -> PositionalEncoding:
    """The positional encoding of a configuration."""
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
    """Layers with the configured attention."""
    layers = [
        EncoderLayer(
            _around(mechanism, config),
            _feed_forward(config),
            dim=config.dim,
            norm=config.norm,
            norm_epsilon=config.norm_epsilon,
            dropout=config.dropout,
        )
        for mechanism in _mechanisms_of(config, causal, places, seed)
    ]
    sizes = {"dim": config.dim, "norm_epsilon": config.norm_epsilon}
    return (
        ReversibleStack(layers, **sizes, streams=config.streams) if config.reversible else EncoderStack(layers, **sizes)
    )


def _mechanisms_of(config: StackConfig, causal: bool, places: Places, seed: int) -> list[nn.Module]:
    """Each layer's."""
    of_layer = {}
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


def _around(mechanism: nn.Module, config: StackConfig) -> MultiHeadAttention:
    sizes = {"dim": config.dim, "heads": config.heads, "head_dim": config.head_dim}
    return MultiHeadAttention(mechanism, **sizes, bias=config.attention_bias)


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
    """A causal model of token sequences, conditional on a label if there are any; ``columns``: of a grid of tokens."""
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
    """A model of text: one that continues it, if causal, else one that fills in what is masked."""
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
    """A model of target sequences given source sequences."""
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
            _around(self_attention, own),
            _around(cross_attention, across),
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
    kind = ReversibleDecoderStack if config.reversible else DecoderStack
    return kind(layers, dim=config.dim, norm_epsilon=config.norm_epsilon)
