"""Efficient attention, hand-written in PyTorch: usable by itself, needs torch alone.

Start with reference.py: the definition of every mechanism, a plain function of some ten lines. Then its class.
mechanism.py says what a mechanism is; SETTINGS below lists them all.

One word a thing, everywhere:

    dim, heads, head_dim, ffn_dim, depth   sizes of a model; dim is the width of the activations
    max_len                                tokens, the most that a module can take
    shared query-key (qk)                  one projection serves as query and, at unit length, as key
    round, n_rounds                        one independent hashing; how many there are
    bucket, n_buckets                      a value that a hash can take; how many it can
    bucket_size                            expected tokens a bucket
    window                                 tokens of its bucket, in sorted order, that a query can see on one side
    chunk                                  a run of tokens, or of sorted tokens, that attend together
    circle                                 tokens to a multiple of which a sequence is padded, whose ends then meet
    rank                                   tokens that a Linformer projects the keys and values to (the paper's k)
    n_features                             numbers that a Performer's feature map gives (the paper's m or r)
    landmark                               mean of a segment of the sequence, which stands for it (Nystrom attention)
    columns, off_grid                      of the grid that a sequence goes through; tokens before it without a place
    causal                                 a token sees none behind it
    mask                                   (batch, length), True where a token is real
    context, cross-attention               what a decoder's tokens attend to beside themselves: the encoder's output
    cache, step                            what decoding keeps of the tokens so far, a row a sequence; one token more

Activations are (batch, length, dim), heads (batch, heads, length, head_dim).
"""

from my_transformers.cache import Cache
from my_transformers.full import FullAttention, FullSettings, SharedQKAttention, SharedQKSettings
from my_transformers.layers import DecoderLayer, DecoderStack, EncoderLayer, EncoderStack
from my_transformers.linear import LinearAttention, LinearSettings
from my_transformers.linformer.attention import BlockCausalLinformerAttention, LinformerAttention
from my_transformers.linformer.projection import (
    ConvolutionProjection,
    LearnedProjection,
    LengthProjection,
    MaxProjection,
    MeanProjection,
)
from my_transformers.linformer.settings import CausalLinformerSettings, LinformerSettings
from my_transformers.local import LocalAttention, LocalSettings
from my_transformers.lsh.attention import LSHAttention
from my_transformers.lsh.settings import LSHSettings, TransformersLSHSettings
from my_transformers.lsh.transformers import TransformersLSHAttention
from my_transformers.mechanism import Mechanism, MechanismSettings, Places, Site
from my_transformers.nystrom import NystromAttention, NystromSettings
from my_transformers.performer.attention import PerformerAttention
from my_transformers.performer.settings import PerformerSettings
from my_transformers.positional_encoding import (
    AxialPositionalEncoding,
    LearnedPositionalEncoding,
    LearnedSinusoidalPositionalEncoding,
    NoPositionalEncoding,
    SinusoidalPositionalEncoding,
)
from my_transformers.relative.attention import RelativeAttention, extended_dim
from my_transformers.relative.clipped import ClippedRelativeAttention
from my_transformers.relative.settings import ClippedRelativeSettings, RelativeSettings
from my_transformers.rev_layers import ReversibleDecoderStack, ReversibleStack
from my_transformers.sublayers import FeedForward, MultiHeadAttention

SETTINGS: tuple[type[MechanismSettings], ...] = (
    FullSettings,
    SharedQKSettings,
    LSHSettings,
    LocalSettings,
    TransformersLSHSettings,
    PerformerSettings,
    RelativeSettings,
    ClippedRelativeSettings,
    LinformerSettings,
    CausalLinformerSettings,
    LinearSettings,
    NystromSettings,
)
"""Every attention mechanism, by its settings: the registry. A new one joins by its line here."""

MECHANISMS: tuple[type[Mechanism], ...] = tuple(settings.mechanism for settings in SETTINGS)
"""The classes of their modules."""

__all__ = [
    "MECHANISMS",
    "SETTINGS",
    "AxialPositionalEncoding",
    "BlockCausalLinformerAttention",
    "Cache",
    "CausalLinformerSettings",
    "ClippedRelativeAttention",
    "ClippedRelativeSettings",
    "ConvolutionProjection",
    "DecoderLayer",
    "DecoderStack",
    "EncoderLayer",
    "EncoderStack",
    "FeedForward",
    "FullAttention",
    "FullSettings",
    "LSHAttention",
    "LSHSettings",
    "LearnedPositionalEncoding",
    "LearnedProjection",
    "LearnedSinusoidalPositionalEncoding",
    "LengthProjection",
    "LinearAttention",
    "LinearSettings",
    "LinformerAttention",
    "LinformerSettings",
    "LocalAttention",
    "LocalSettings",
    "MaxProjection",
    "MeanProjection",
    "Mechanism",
    "MechanismSettings",
    "MultiHeadAttention",
    "NoPositionalEncoding",
    "NystromAttention",
    "NystromSettings",
    "PerformerAttention",
    "PerformerSettings",
    "Places",
    "RelativeAttention",
    "RelativeSettings",
    "ReversibleDecoderStack",
    "ReversibleStack",
    "SharedQKAttention",
    "SharedQKSettings",
    "SinusoidalPositionalEncoding",
    "Site",
    "TransformersLSHAttention",
    "TransformersLSHSettings",
    "extended_dim",
]
