"""Our mechanisms in other people's models.

``as_multihead_attention`` stands in for torch.nn.MultiheadAttention, ``swap_attention`` replaces the attention of a
trained model, and ``my_transformers.interop.transformers`` registers the mechanisms with the transformers library.
"""

from my_transformers.interop.multihead import as_multihead_attention
from my_transformers.interop.swap import Moved, swap_attention

__all__ = ["Moved", "as_multihead_attention", "swap_attention"]
