"""Checks of modules' inputs. They read shapes and dtypes only, so the host never waits for a GPU."""

import torch
from torch import Tensor


def check_heads(q: Tensor, k: Tensor, v: Tensor, *, heads: int | None = None, head_dim: int | None = None) -> None:
    """Raise ValueError unless queries, keys and values have matching shapes and dtypes.

    Args:
        q: (b, h, n, d), floating-point.
        k: (b, h, m, d) of the same dtype; pass q itself where queries serve as keys. m may be 0 only if n is 0.
        v: (b, h, m, e) of the same dtype.
        heads: required number of heads; None: any.
        head_dim: required d; None: any.
    """
    if not q.dim() == k.dim() == v.dim() == 4 or not (
        q.shape[:2] == k.shape[:2] == v.shape[:2]
        and q.shape[3] == k.shape[3]
        and k.shape[2] == v.shape[2]
        and (heads is None or q.shape[1] == heads)
        and (head_dim is None or q.shape[3] == head_dim)
    ):
        h, d = "heads" if heads is None else heads, "head_dim" if head_dim is None else head_dim
        if q is k:
            wanted = f"qk (batch, {h}, length, {d}) and v (batch, {h}, length, any)"
        else:
            wanted = f"q (batch, {h}, queries, {d}), k (batch, {h}, keys, {d}) and v (batch, {h}, keys, any)"
        raise ValueError(f"attention takes {wanted}, got shapes {_each(q, k, v, what='shape')}")
    if k.shape[2] == 0 and q.shape[2] != 0:
        raise ValueError(f"{q.shape[2]} queries and no keys: there is nothing to attend to")
    alike = q.dtype == k.dtype == v.dtype or torch.is_autocast_enabled(q.device.type)
    if not alike or not (q.is_floating_point() and k.is_floating_point() and v.is_floating_point()):
        raise ValueError(
            f"queries, keys and values must have one floating-point dtype, got {_each(q, k, v, what='dtype')}"
        )


def check_tokens(x: Tensor, dim: int) -> None:
    """Raise ValueError unless x is (batch, length, dim)."""
    if x.dim() != 3 or x.shape[2] != dim:
        raise ValueError(f"tokens have shape {tuple(x.shape)}, must be (batch, length, {dim})")


def _each(q: Tensor, k: Tensor, v: Tensor, *, what: str) -> str:
    found = [getattr(x, what) for x in ((q, v) if q is k else (q, k, v))]
    return ", ".join(str(tuple(one) if what == "shape" else one) for one in found)
