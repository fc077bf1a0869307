"""The mechanisms, one file each, on (batch, heads, length, head_dim)."""

from my_transformers.modules.full import FullAttention, SharedQKAttention
from my_transformers.modules.lsh import LSHAttention

__all__ = ["FullAttention", "LSHAttention", "SharedQKAttention"]
