"""Our mechanisms by name in models of transformers 5: ``attn_implementation="dl_proj:performer"``."""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from my_transformers.full_settings import FullSettings
from my_transformers.interop.heads import attend
from my_transformers.mechanism import Mechanism
from my_transformers.registry import SETTINGS
from my_transformers.settings import MechanismSettings, Places, Site

PREFIX = "dl_proj:"  # not a slash: transformers would look for a kernel of that name on the Hugging Face hub
SWAPPED = f"{PREFIX}swapped"
"""The implementation of models whose layers differ: see :func:`~my_transformers.interop.swap_attention`."""

_TAKEN = ("/", "|", "flash", "sdpa", "flex_attention")  # parts of names that transformers reads as something else
_UNSUPPORTED = ("sliding_window", "softcap", "position_bias", "s_aux", "sinks", "indices", "block_indices", "head_mask")

Pick = Callable[[nn.Module, bool, Tensor], Mechanism]
"""The mechanism of an attention module, for a direction and queries (b, h, n, d)."""


def register(
    settings: MechanismSettings | None = None, *, name: str | None = None, seed: int = 0, max_len: int | None = None
) -> tuple[str, ...]:
    """Make mechanisms available to every model of transformers that dispatches its attention by name.

    Without arguments, every mechanism is registered under ``dl_proj:`` and its kind, with default settings:

        register()
        model = AutoModel.from_pretrained(path, attn_implementation="dl_proj:performer")

    Settings get a name of their own: ``register(PerformerSettings(n_features=1024), name="performer-1024")``.
    Registering a name again replaces it, but not in modules that have already run.

    The weights are the model's own and the mechanisms have none; random directions are drawn from ``seed`` and the
    layer's number, so that a model that is saved and loaded gives the same outputs. Dropout is the model's, as the
    mechanism applies it. Keys and values stay in transformers' cache: a step of generation computes attention over all
    cached keys, which is O(m) and saves nothing over full attention, and no running sums are kept (see
    :func:`~my_transformers.interop.heads.attend`).

    What cannot work raises a ValueError in the first forward, which says why: mechanisms that share queries and keys
    (``shared_qk``, ``lsh``, ``transformers_lsh``), mechanisms with parameters of their own (learned Linformers: use
    :func:`~my_transformers.interop.swap_attention`), a direction that a mechanism does not support, static and sliding
    caches, and models with sliding windows, packed sequences, position biases or masks of their own.

    Args:
        settings: of one mechanism; None: every kind, with its default settings (Linformers with mean projections, of
            rank 32).
        name: what follows ``dl_proj:``; default: the kind.
        seed: seed of the random numbers.
        max_len: the maximum number of tokens, for mechanisms that need one; default: the model's
            ``max_position_embeddings``.

    Returns:
        The names, for ``attn_implementation``.

    Raises:
        ImportError: transformers 5 is not installed.
        ValueError: settings that contradict each other, or a name without settings or that transformers misreads.
    """
    if settings is None:
        if name is not None:
            raise ValueError(f"name {name!r} needs settings: which mechanism it stands for")
        return sum((register(one, seed=seed, max_len=max_len) for one in _defaults()), ())
    if taken := [part for part in _TAKEN if part in (name or "")]:
        raise ValueError(f"name {name!r} must not contain {taken[0]!r}, which transformers reads as something else")
    if mistakes := settings.mistakes():
        raise ValueError(f"{settings.kind}: {'; '.join(mistakes)}")
    whole = PREFIX + (settings.kind if name is None else name)
    _add(whole, _picks(whole, settings, seed, max_len))
    return (whole,)


def register_swapped() -> str:
    """Register the implementation that runs a module's ``swapped`` mechanism, or full attention if it has none.

    Raises:
        ImportError: transformers 5 is not installed.
    """
    exact = _picks(f"{PREFIX}full", FullSettings(), 0, None)

    def pick(module: nn.Module, causal: bool, q: Tensor) -> Mechanism:
        found = getattr(module, "swapped", None)
        if found is None:
            return exact(module, causal, q)
        if found.causal != causal:
            raise ValueError(f"the model attends with is_causal={causal}, but was swapped with {found.causal}")
        return found

    _add(SWAPPED, pick)
    return SWAPPED


def _defaults() -> list[MechanismSettings]:
    parameterless: dict[str, dict[str, Any]] = {
        kind: {"projection": "mean"} for kind in ("linformer", "causal_linformer")
    }
    return [one(**parameterless.get(one.kind, {})) for one in SETTINGS]


def _add(name: str, pick: Pick) -> None:
    interface, masks, _ = _library()
    interface.register(name, _attention(name, pick))
    masks.register(name, _key_mask)


def _library() -> tuple[Any, Any, tuple[Any, Any]]:
    """AttentionInterface, AttentionMaskInterface, and the plain causal and bidirectional mask functions."""
    try:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import bidirectional_mask_function, causal_mask_function
    except ImportError as error:
        raise ImportError(
            "my_transformers.interop.transformers needs the transformers library: pip install 'transformers>=5'"
        ) from error
    return AttentionInterface, AttentionMaskInterface, (causal_mask_function, bidirectional_mask_function)


def _picks(name: str, settings: MechanismSettings, seed: int, max_len: int | None) -> Pick:
    """Mechanisms built when a module first runs, and kept in it, but not among its submodules: they have no state."""

    def pick(module: nn.Module, causal: bool, q: Tensor) -> Mechanism:
        kept = module.__dict__.setdefault("_dl_proj_mechanisms", {})
        if (name, causal) not in kept:
            layer = getattr(module, "layer_idx", None) or 0
            length = max_len or longest(getattr(module, "config", None))
            built = build(settings, q.shape[1], q.shape[-1], causal, length, (seed + layer,))[0]
            if any(True for _ in built.parameters()) or getattr(settings, "redraw_every", None):
                _refuse(settings, "has parameters or a state of its own", "use my_transformers.interop.swap_attention")
            kept[name, causal] = built
        return kept[name, causal].to(q.device).train(module.training)

    return pick


def build(
    settings: MechanismSettings, heads: int, head_dim: int, causal: bool, max_len: int | None, seeds: tuple[int, ...]
) -> list[Mechanism]:
    """Mechanisms for layers of a model that has separate queries and keys, one per seed.

    Raises:
        ValueError: the mechanism cannot be used there.
    """
    if settings.shared_query_key:
        _refuse(
            settings,
            "shares queries and keys, and the model was trained with a projection for each",
            "train a model with shared ones (EncoderStack, ReversibleStack), or use another mechanism",
        )
    if causal not in settings.directions:
        _refuse(settings, f"cannot be used with causal={causal}: it {settings.one_way}", "use performer or local")
    if settings.sees_padding:
        raise ValueError(settings.sees_padding)
    if max_len is None and settings.needs_max_len:
        _refuse(settings, "is built for a maximum length, which the model's config does not name", "give max_len")
    site = Site(heads, head_dim, causal, Places(max_len or 1), seeds)
    if mistakes := settings.mistakes() + settings.mistakes_at(site, str):
        raise ValueError(f"{settings.kind}: {'; '.join(mistakes)}")
    return settings.build(site)


def longest(config: Any) -> int | None:
    """The maximum number of tokens that a model's config names."""
    return getattr(config, "max_position_embeddings", None)


def _refuse(settings: MechanismSettings, why: str, instead: str) -> NoReturn:
    raise ValueError(f"{settings.kind} {why}; {instead}")


def _attention(name: str, pick: Pick) -> Callable[..., tuple[Tensor, None]]:
    """The function that transformers calls in place of its own attention."""

    def forward(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        dropout: float = 0.0,
        scaling: float | None = None,
        is_causal: bool | None = None,
        **others: Any,
    ) -> tuple[Tensor, None]:
        mask, rule = _keys_and_rule(attention_mask)
        _check(name, module, mask, others)
        if (groups := query.shape[1] // key.shape[1]) > 1:  # grouped queries: each key and value serves several heads
            key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
        mechanism = pick(module, rule or _direction(name, module, is_causal), query)
        if module.training:
            _set_dropout(mechanism, dropout)
        out = attend(mechanism, query, key, value, mask=mask, scale=scaling)
        return out.transpose(1, 2).contiguous(), None

    return forward


def _keys_and_rule(mask: Tensor | None) -> tuple[Tensor | None, bool]:
    """Take a mask of :func:`_key_mask` apart: (batch, keys) or None, and whether it was made for the causal rule."""
    if mask is None or mask.dim() != 3 or mask.shape[1] != 1:
        return mask, False
    return mask[:, 0] if mask.shape[2] else None, True


def _direction(name: str, module: nn.Module, is_causal: bool | None) -> bool:
    found = getattr(module, "is_causal", None) if is_causal is None else is_causal
    if found is None:
        raise ValueError(f"{name}: {type(module).__name__} does not say whether it is causal (is_causal)")
    return bool(found) and getattr(getattr(module, "config", None), "is_causal", True) is not False


def _set_dropout(mechanism: Mechanism, dropout: float) -> None:
    part: Any
    for part in mechanism.modules():
        if hasattr(part, "dropout"):
            part.dropout = dropout


def _check(name: str, module: nn.Module, mask: Tensor | None, others: dict[str, Any]) -> None:
    if mask is not None and mask.dim() != 2:
        raise ValueError(
            f"{name}: the attention mask has shape {tuple(mask.shape)}, must be (batch, keys), which names the real "
            "tokens; masks that differ between queries are not supported"
        )
    for one in _UNSUPPORTED:
        if others.get(one) is not None:
            raise ValueError(f"{name}: the model attends with {one}, which no mechanism here supports")
    if others.get("cu_seq_lens_q") is not None:
        raise ValueError(
            f"{name}: packed sequences (cu_seq_lens_q) are not supported; pad them, with an attention_mask"
        )
    if others.get("output_attentions") or getattr(getattr(module, "config", None), "output_attentions", False):
        raise ValueError(f"{name}: attention weights are not computed; use attn_implementation='eager' for them")


def _key_mask(
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] | None = None,
    attention_mask: Tensor | None = None,
    **others: Any,
) -> Tensor | None:
    """The mask that transformers makes once for all layers: (batch, keys), True where real; None: all are.

    For the causal rule it is (batch, 1, keys), and (batch, 1, 0) if all are real: not every decoder's attention says
    in ``is_causal`` what its mask says (Pegasus-X, NLLB-MoE), and without the rule it would see later tokens.
    """
    *_, (causal, bidirectional) = _library()
    if mask_function not in (causal, bidirectional):
        raise ValueError(
            "dl_proj: the model hides keys by another rule than causality and padding (a sliding window, chunks, "
            "packed sequences or a mask of its own), which these mechanisms do not follow; torch.compile takes a batch "
            "without a cache for packed sequences unless it has an attention_mask"
        )
    grows = not isinstance(q_offset, Tensor) and kv_length == q_offset + q_length
    if kv_offset != 0 or (mask_function is causal and not grows):
        raise ValueError("dl_proj: static and sliding caches are not supported; use the default, a DynamicCache")
    if attention_mask is not None and attention_mask.dim() != 2:
        raise ValueError(f"dl_proj: attention_mask has shape {tuple(attention_mask.shape)}, must be (batch, keys)")
    if attention_mask is None or (not torch.compiler.is_compiling() and bool(attention_mask.all())):
        if mask_function is not causal:
            return None
        return torch.empty(others["batch_size"], 1, 0, dtype=torch.bool, device=others["device"])
    return attention_mask.bool()[:, None] if mask_function is causal else attention_mask.bool()
