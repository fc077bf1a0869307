"""The formulas as the papers print them, in O(n^2) with Python loops where a loop is the plainest: the other twin."""

import math

import torch
from torch import Tensor


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """sum_j p_ij v_j with p_i = softmax over the visible j of q_i . k_j / sqrt(d); visible (..., n, m)."""
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(~visible, -math.inf)
    return scores.softmax(-1) @ v


def counts(buckets: Tensor, window: int, *, causal: bool, rule: str, across: bool, padding: Tensor | None) -> Tensor:
    """(b, h, n, n): in how many rounds query i sees key j, which is never i. buckets (b, h, r, n), padding (b, n)."""
    batch, heads, n_rounds, n = buckets.shape
    found = torch.zeros(batch, heads, n, n, dtype=torch.float64)
    for b in range(batch):
        real = [t for t in range(n) if padding is None or not padding[b, t]]
        for h in range(heads):
            for r in range(n_rounds):
                bucket = buckets[b, h, r].tolist()
                order = sorted(real, key=lambda t, bucket=bucket: (bucket[t], t))
                for place_i, i in enumerate(order):
                    for place_j, j in enumerate(order):
                        if rule == "bucket":
                            near = abs(place_i - place_j) <= window
                        else:
                            near = place_i // window - place_j // window in (0, 1)
                        alike = across or bucket[i] == bucket[j]
                        allowed = j < i if causal else j != i
                        found[b, h, i, j] += near and alike and allowed
    return found


def lsh_attention(
    qk: Tensor,
    v: Tensor,
    buckets: Tensor,
    window: int,
    *,
    causal: bool,
    rule: str = "bucket",
    across: bool = False,
    deduplicate: bool = True,
    padding: Tensor | None = None,
) -> Tensor:
    """Softmax over all that any round shows, each key weighed by its rounds or, deduplicated, by one."""
    seen = counts(buckets, window, causal=causal, rule=rule, across=across, padding=padding)
    if deduplicate:
        seen = (seen > 0).double()
    alone = seen.sum(-1) == 0
    seen = seen + torch.diag_embed(alone.double())
    keys = qk / qk.norm(dim=-1, keepdim=True)
    scores = qk @ keys.transpose(-1, -2) / math.sqrt(qk.shape[-1])
    return (scores + seen.log()).softmax(-1) @ v
