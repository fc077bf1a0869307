"""The names that ``from my_transformers import ...`` finds; importing this module imports torch."""

from my_transformers.cache import Cache
from my_transformers.full import FullAttention, SharedQKAttention
from my_transformers.layers import DecoderLayer, DecoderStack, EncoderLayer, EncoderStack
from my_transformers.linformer.attention import BlockCausalLinformerAttention, LinformerAttention
from my_transformers.linformer.projection import (
    ConvolutionProjection,
    LearnedProjection,
    LengthProjection,
    MaxProjection,
    MeanProjection,
)
from my_transformers.local import LocalAttention
from my_transformers.lsh.attention import LSHAttention
from my_transformers.lsh.transformers import TransformersLSHAttention
from my_transformers.performer.attention import PerformerAttention
from my_transformers.positional_encoding import (
    AxialPositionalEncoding,
    LearnedPositionalEncoding,
    LearnedSinusoidalPositionalEncoding,
    NoPositionalEncoding,
    SinusoidalPositionalEncoding,
)
from my_transformers.relative.attention import RelativeAttention, extended_dim
from my_transformers.relative.clipped import ClippedRelativeAttention
from my_transformers.rev_layers import ReversibleDecoderStack, ReversibleStack
from my_transformers.sublayers import FeedForward, MultiHeadAttention

MECHANISMS = (
    FullAttention,
    SharedQKAttention,
    LocalAttention,
    LSHAttention,
    TransformersLSHAttention,
    PerformerAttention,
    RelativeAttention,
    ClippedRelativeAttention,
    LinformerAttention,
    BlockCausalLinformerAttention,
)
"""Every attention mechanism; a new one joins by its line here."""

__all__ = [
    "MECHANISMS",
    "AxialPositionalEncoding",
    "BlockCausalLinformerAttention",
    "Cache",
    "ClippedRelativeAttention",
    "ConvolutionProjection",
    "DecoderLayer",
    "DecoderStack",
    "EncoderLayer",
    "EncoderStack",
    "FeedForward",
    "FullAttention",
    "LSHAttention",
    "LearnedPositionalEncoding",
    "LearnedProjection",
    "LearnedSinusoidalPositionalEncoding",
    "LengthProjection",
    "LinformerAttention",
    "LocalAttention",
    "MaxProjection",
    "MeanProjection",
    "MultiHeadAttention",
    "NoPositionalEncoding",
    "PerformerAttention",
    "RelativeAttention",
    "ReversibleDecoderStack",
    "ReversibleStack",
    "SharedQKAttention",
    "SinusoidalPositionalEncoding",
    "TransformersLSHAttention",
    "extended_dim",
]
