"""Local attention through PyTorch's FlexAttention on a GPU: one fused kernel, no copy of keys and values per chunk."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BLOCK = 128
"""Queries and keys per block of the kernel. Pairs of blocks in which no query sees a key are skipped."""


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(flex_attention, dynamic=True, fullgraph=True)


def flex_local_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    chunk_size: int,
    back: int,
    ahead: int,
    causal: bool,
    attend: Callable[..., Tensor] | None = None,
) -> Tensor:
    """:class:`~my_transformers.LocalAttention` without dropout and without ``circle``.

    Args:
        q: (b, h, n, d).
        k: (b, h, n, d).
        v: (b, h, n, e).
        mask: (b, n), True where a token is real.
        chunk_size: tokens per chunk.
        back: chunks before its own that a query attends to.
        ahead: chunks after it.
        causal: a query attends only to itself and earlier tokens.
        attend: FlexAttention; default: a version compiled once for all lengths.

    Returns:
        (b, h, n, e), 0 where a padded query sees no real key.
    """
    b, _, n, _ = q.shape
    first, end = reach(n, q.device, chunk_size=chunk_size, back=back, ahead=ahead, causal=causal)
    real = torch.ones(b, n, dtype=torch.bool, device=q.device) if mask is None else mask

    def visible(sample: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (first[query] <= key) & (key < end[query]) & real[sample, key]

    return (attend or _compiled())(q, k, v, block_mask=_blocks(first, end, visible))


def reach(
    n: int, device: torch.device, *, chunk_size: int, back: int, ahead: int, causal: bool
) -> tuple[Tensor, Tensor]:
    """For each of n queries, the first key that it attends to and one past the last: (n,) each.

    They are tensors rather than Python integers so that one compiled kernel serves all settings.
    """
    query = torch.arange(n, device=device, dtype=torch.int32)
    chunk = query // chunk_size
    first = ((chunk - back) * chunk_size).clamp(min=0)
    return first, query + 1 if causal else ((chunk + 1 + ahead) * chunk_size).clamp(max=n)


def _blocks(first: Tensor, end: Tensor, mask_mod: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> BlockMask:
    """Blocks of keys for each block of queries: from its first query's first key to its last query's last key.

    Both ends are non-decreasing in the query, so no pair is missed. ``create_block_mask`` would find the same blocks
    by evaluating the mask at all n^2 pairs.
    """
    n = len(first)
    block = torch.arange(-(-n // BLOCK), device=first.device, dtype=torch.int32)
    first_block = first[block * BLOCK] // BLOCK
    last_block = (end[((block + 1) * BLOCK).clamp(max=n) - 1] - 1) // BLOCK
    keys = (first_block.unsqueeze(-1) + block).clamp(max=len(block) - 1)
    count = last_block - first_block + 1
    return BlockMask.from_kv_blocks(
        count[None, None], keys[None, None], BLOCK_SIZE=BLOCK, mask_mod=mask_mod, seq_lengths=(n, n)
    )
