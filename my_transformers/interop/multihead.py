"""A stand-in for torch.nn.MultiheadAttention around any mechanism with separate queries and keys."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from my_transformers.mechanism import Mechanism


class MechanismMultiheadAttention(nn.MultiheadAttention):
    """See :func:`as_multihead_attention`. Parameters have the names and shapes of torch.nn.MultiheadAttention's."""

    def __init__(self, mechanism: Mechanism, embed_dim: int, num_heads: int, **others: Any) -> None:
        super().__init__(embed_dim, num_heads, **others)
        self.mechanism = mechanism
        # nn.TransformerEncoderLayer's fast path in evaluation would read the weights and compute softmax attention
        # instead of calling this module; layers whose projections differ in width do not take it
        self._qkv_same_embed_dim = False

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As torch.nn.MultiheadAttention.forward; returns the output and, with ``need_weights``, the weights.

        Args:
            query: (b, n, embed_dim) with batch_first, (n, b, embed_dim) without, or (n, embed_dim).
            key: likewise, m tokens of kdim numbers.
            value: likewise, m tokens of vdim numbers.
            key_padding_mask: (b, m), or (m) without a batch: True or -inf where a key is padding.
            need_weights: also return the attention weights, which takes n m numbers per head.
            attn_mask: None, or the causal mask (n, n) of a causal mechanism, True or -inf where a key is hidden.
            average_attn_weights: weights (b, n, m), their mean over the heads; False: (b, num_heads, n, m).
            is_causal: ``attn_mask`` is the causal mask; it is not compared with it then.

        Raises:
            ValueError: a mask that the mechanism cannot follow, or weights that it does not have.
        """
        if query.is_nested:
            raise ValueError(
                "nested tensors are not supported: build nn.TransformerEncoder with enable_nested_tensor=False, or set "
                "its use_nested_tensor to False"
            )
        shared = key is query
        batched = query.dim() == 3
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        self._check(shared, attn_mask, is_causal, query.shape[1], key.shape[1])
        q, k, v = self._heads(query, key, value)
        if need_weights:
            v = self._with_identity(v)
        out = self.mechanism(q, k, v, mask=_real(key_padding_mask))
        out, weights = out.split((self.head_dim, out.shape[-1] - self.head_dim), dim=-1)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        weights = weights.mean(1) if average_attn_weights else weights
        if not batched:
            out, weights = out.squeeze(0), weights.squeeze(0)
        elif not self.batch_first:
            out = out.transpose(0, 1)
        return out, weights if need_weights else None

    def _check(self, shared: bool, attn_mask: Tensor | None, is_causal: bool, n: int, m: int) -> None:
        name = type(self.mechanism).__name__
        if not (shared or self.mechanism.cross):
            raise ValueError(f"{name} cannot attend to another sequence: pass the same tensor as query and key")
        if not self.mechanism.causal:
            if attn_mask is not None or is_causal:
                raise ValueError(
                    f"{name} was built with causal=False and follows no attn_mask; build it with causal=True for the "
                    "causal mask, and give padding as key_padding_mask"
                )
        elif not is_causal and not _is_causal_mask(attn_mask, n, m):
            raise ValueError(
                f"{name} was built with causal=True: attn_mask must be the causal mask of {n} tokens, or is_causal True"
            )

    def _heads(self, *tokens: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values (b, h, ·, head_dim)."""
        # PyTorch declares these as Tensor, but they may be None
        in_proj, bias = (cast("Tensor | None", one) for one in (self.in_proj_weight, self.in_proj_bias))
        apart: tuple[Tensor, ...] = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        weights = apart if in_proj is None else in_proj.chunk(3)
        biases: tuple[Tensor | None, ...] = (None,) * 3 if bias is None else bias.chunk(3)
        projected = (F.linear(x, one, own) for x, one, own in zip(tokens, weights, biases, strict=True))
        return tuple(x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for x in projected)

    def _with_identity(self, v: Tensor) -> Tensor:
        """Values and, beside them, the identity matrix, whose outputs are the weights of the same call."""
        if not self.mechanism.has_weights:
            raise ValueError(f"{type(self.mechanism).__name__} has no attention weights here: pass need_weights=False")
        identity = torch.eye(v.shape[2], dtype=v.dtype, device=v.device)
        return torch.cat((v, identity.expand(*v.shape[:2], -1, -1)), dim=-1)


def as_multihead_attention(
    mechanism: Mechanism,
    embed_dim: int,
    num_heads: int,
    dropout: float = 0.0,
    bias: bool = True,
    add_bias_kv: bool = False,
    add_zero_attn: bool = False,
    kdim: int | None = None,
    vdim: int | None = None,
    batch_first: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> MechanismMultiheadAttention:
    """A mechanism with the signature of torch.nn.MultiheadAttention, for code that expects one.

    The parameters have that module's names and shapes, so its state dict can be loaded with ``strict=False`` (which
    leaves alone what a mechanism has of its own, such as a Performer's directions). Differences:

    * ``attn_mask`` is None, or the causal mask if the mechanism was built with ``causal=True``; others are refused.
      Without the hint ``is_causal`` the mask is compared with the causal one, for which the host waits for the GPU.
    * a floating-point ``key_padding_mask`` may hold 0 and -inf alone; to check that, the host waits for the GPU.
    * ``need_weights=True``, the default, is honoured, in n m memory: a mechanism is linear in its values, so with the
      identity matrix as values it returns its weights. Pass False where they are not used.
    * ``dropout`` is the mechanism's.

    Args:
        mechanism: with separate queries and keys, for heads of embed_dim / num_heads numbers.
        embed_dim: width of queries and outputs.
        num_heads: the number of heads.
        dropout: must be 0; give it to the mechanism.
        bias: whether the projections have a bias.
        add_bias_kv: must be False.
        add_zero_attn: must be False.
        kdim: width of the keys; None: embed_dim.
        vdim: width of the values; None: embed_dim.
        batch_first: tokens are (b, n, width) rather than (n, b, width).
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: a mechanism that shares queries and keys, or an argument that is not supported.
    """
    name = type(mechanism).__name__
    if mechanism.shared_query_key:
        raise ValueError(
            f"{name} shares queries and keys, and nn.MultiheadAttention has a projection for each: use "
            "my_transformers.MultiHeadAttention, and train with it"
        )
    if dropout:
        raise ValueError(f"dropout is {dropout}, must be 0 here: give it to {name}, where attention weights are made")
    if add_bias_kv or add_zero_attn:
        raise ValueError("add_bias_kv and add_zero_attn must be False: mechanisms see the sequence's own tokens only")
    if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads:
        raise ValueError(f"embed_dim {embed_dim} must be a positive multiple of num_heads {num_heads}")
    others = {"bias": bias, "kdim": kdim, "vdim": vdim, "batch_first": batch_first, "device": device, "dtype": dtype}
    return MechanismMultiheadAttention(mechanism, embed_dim, num_heads, **others)


def _real(key_padding_mask: Tensor | None) -> Tensor | None:
    """Torch's mask, True or -inf where a key is padding, as ours, True where it is real."""
    if key_padding_mask is None or not key_padding_mask.is_floating_point():
        return None if key_padding_mask is None else ~key_padding_mask.bool()
    real = key_padding_mask == 0
    if not torch.compiler.is_compiling() and not (real | (key_padding_mask == -torch.inf)).all():
        raise ValueError("a floating-point key_padding_mask may hold 0 and -inf only: scores cannot be shifted")
    return real


def _is_causal_mask(attn_mask: Tensor | None, n: int, m: int) -> bool:
    if attn_mask is None or attn_mask.shape != (n, m):
        return False
    hidden = attn_mask if attn_mask.dtype == torch.bool else attn_mask == -torch.inf
    added = attn_mask.is_floating_point() and bool((~hidden & (attn_mask != 0)).any())
    return not added and bool((hidden == torch.ones_like(hidden).triu(1)).all())
