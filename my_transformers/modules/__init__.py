"""The mechanisms, one file each, on (batch, heads, length, head_dim)."""

from my_transformers.modules.clipped_relative import ClippedRelativeAttention
from my_transformers.modules.full import FullAttention, SharedQKAttention
from my_transformers.modules.linformer import BlockCausalLinformerAttention, LinformerAttention
from my_transformers.modules.local import LocalAttention
from my_transformers.modules.lsh import LSHAttention
from my_transformers.modules.performer import PerformerAttention
from my_transformers.modules.relative import RelativeAttention
from my_transformers.modules.transformers_lsh import TransformersLSHAttention

__all__ = [
    "BlockCausalLinformerAttention",
    "ClippedRelativeAttention",
    "FullAttention",
    "LSHAttention",
    "LinformerAttention",
    "LocalAttention",
    "PerformerAttention",
    "RelativeAttention",
    "SharedQKAttention",
    "TransformersLSHAttention",
]
