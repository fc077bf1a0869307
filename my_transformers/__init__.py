"""Efficient attention, hand-written in PyTorch: usable by itself, needs torch alone.

Start with reference.py: the definition of every mechanism, a plain function of some ten lines. Then its class.

One word per thing, everywhere:

    dim, heads, head_dim, ffn_dim, depth   sizes of a model; dim is the width of the activations
    max_len                                tokens, the most that a module can take
    shared query-key (qk)                  one projection serves as query and, at unit length, as key
    round, n_rounds                        one independent hashing; how many there are
    bucket, n_buckets                      a value that a hash can take; how many there are
    bucket_size                            expected tokens a bucket
    window                                 tokens of its bucket, in sorted order, that a query can see on one side
    chunk                                  consecutive tokens, or sorted tokens, that attend together
    circle                                 a sequence is padded to a multiple of so many tokens, and its ends then meet
    rank                                   tokens that a Linformer projects the keys and values to (the paper's k)
    n_features                             size of a Performer's feature map (the paper's m or r)
    columns, off_grid                      of a grid that a sequence fills row by row; tokens before it without a place
    causal                                 a token attends only to itself and earlier tokens
    mask                                   (batch, length), True where a token is real
    context, cross-attention               other tokens that a decoder's attend to: the encoder's output
    cache, step                            what decoding keeps of earlier tokens, a row per sequence; decoding the next

Activations are (batch, length, dim), heads (batch, heads, length, head_dim).
"""

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
