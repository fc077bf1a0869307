"""Replace the attention of a trained model, keeping its weights."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from my_transformers.interop.multihead import as_multihead_attention
from my_transformers.interop.transformers import build, longest, register_swapped
from my_transformers.mechanism import Mechanism
from my_transformers.settings import MechanismSettings


@dataclass(frozen=True)
class Moved:
    """What swapping one layer did.

    Args:
        layer: its number among the model's attention layers.
        name: its module's name.
        change: relative change of the model's output once this layer and those before it are swapped:
            ||new - old|| / ||old|| over all real tokens; None without ``inputs``.
    """

    layer: int
    name: str
    change: float | None


def swap_attention(
    model: nn.Module,
    mechanism: MechanismSettings,
    *,
    layers: Iterable[int] | None = None,
    inputs: Any = None,
    seed: int = 0,
    max_len: int | None = None,
    causal: bool = False,
) -> list[Moved]:
    """Replace attention in a trained model, in place and layer by layer, and measure how far its outputs move.

    All weights of the model stay as they are. It may be a model of transformers that dispatches its attention by name
    (BERT, RoBERTa, GPT-2, Llama, ViT ...; its other layers then run our full attention), or any model with
    torch.nn.MultiheadAttention (a torchvision ViT, nn.TransformerEncoder). What a mechanism has of its own, such as
    a Performer's directions or learned projections, becomes part of the state dict; learned projections start at
    random and need a training. Limits are those of :func:`~my_transformers.interop.transformers.register` and
    :func:`~my_transformers.interop.as_multihead_attention`.

    Args:
        model: the trained model. To keep it, pass a ``copy.deepcopy``.
        mechanism: settings of the mechanism, such as ``PerformerSettings(n_features=256)``.
        layers: numbers of the attention layers to swap, in the model's order; None: all.
        inputs: for the measure: a mapping of keyword arguments, a tuple of arguments, or one argument of the model.
            Its output is the first tensor that it returns; positions that a mask ``attention_mask`` hides are left out.
        seed: seed of the random numbers; each layer has its own, this plus its number.
        max_len: the maximum number of tokens, for mechanisms that need one; default: the config's
            ``max_position_embeddings``.
        causal: whether nn.MultiheadAttention layers are causal, which they do not say themselves.

    Returns:
        One :class:`Moved` per swapped layer.

    Raises:
        ImportError: a model of transformers, but no transformers 5.
        ValueError: no attention layer was found, a layer's number does not exist, or the mechanism cannot be used here.
    """
    hosted = getattr(model, "config", None) is not None and hasattr(model, "set_attn_implementation")
    found = _of_transformers(model) if hosted else _of_torch(model)
    if not found:
        raise ValueError(f"{type(model).__name__} has no attention that can be swapped")
    chosen = list(range(len(found))) if layers is None else sorted(set(layers))
    if wrong := [layer for layer in chosen if not 0 <= layer < len(found)]:
        raise ValueError(f"layers {wrong} do not exist: the model has {len(found)}, numbered from 0")
    names = [list(found)[layer] for layer in chosen]
    before = None if inputs is None else _output(model, inputs)
    if hosted:
        new = _mechanisms(model, mechanism, [found[name] for name in names], [seed + i for i in chosen], max_len)
    else:
        new = _stand_ins(model, mechanism, [found[name] for name in names], [seed + i for i in chosen], max_len, causal)
    moved = []
    for layer, name, module in zip(chosen, names, new, strict=True):
        model.set_submodule(f"{name}.swapped" if hosted else name, module.train(found[name].training))
        moved.append(Moved(layer, name, None if before is None else _change(model, inputs, before)))
    return moved


def _of_transformers(model: nn.Module) -> dict[str, nn.Module]:
    """Self-attention modules: those that say whether they are causal, and take no context."""
    return {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "is_causal")
        and hasattr(module, "config")
        and not getattr(module, "is_cross_attention", "Cross" in type(module).__name__)
    }


def _of_torch(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)}


def _mechanisms(
    model: Any, settings: MechanismSettings, old: Sequence[Any], seeds: Sequence[int], max_len: int | None
) -> list[nn.Module]:
    """Mechanisms for attention modules of transformers, which from now on run theirs, or full attention."""
    if not old:
        return []
    config = old[0].config
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    directions = {bool(module.is_causal) for module in old}
    if len(directions) > 1:
        raise ValueError("some of the layers are causal and others are not: swap them one kind at a time, with layers")
    built = build(settings, heads, head_dim, directions.pop(), max_len or longest(config), tuple(seeds))
    name = register_swapped()
    model.set_attn_implementation(name)
    if config._attn_implementation != name:
        raise ValueError(f"{type(model).__name__} does not dispatch its attention by name: it cannot be swapped")
    return [one.to(_device(module)) for one, module in zip(built, old, strict=True)]


def _stand_ins(
    model: nn.Module,
    settings: MechanismSettings,
    old: Sequence[Any],
    seeds: Sequence[int],
    max_len: int | None,
    causal: bool,
) -> list[nn.Module]:
    """Stand-ins for torch's modules, with their parameters: the same objects, so that an optimizer still has them."""
    if not old:
        return []
    first = old[0]
    if not settings.dropout:
        settings = replace(settings, dropout=first.dropout)
    length = max_len or getattr(model, "seq_length", None)  # torchvision's name for it
    mechanisms = build(settings, first.num_heads, first.head_dim, causal, length, tuple(seeds))
    new = [_stand_in(one, mechanism) for one, mechanism in zip(old, mechanisms, strict=True)]
    for part in model.modules():
        if isinstance(part, nn.TransformerEncoder):
            part.use_nested_tensor = False  # its fast path for padded batches, which the stand-ins cannot take
    return new


def _stand_in(old: nn.MultiheadAttention, mechanism: Mechanism) -> nn.Module:
    new = as_multihead_attention(
        mechanism.to(_device(old)),
        old.embed_dim,
        old.num_heads,
        add_bias_kv=old.bias_k is not None,
        add_zero_attn=old.add_zero_attn,
        kdim=old.kdim,
        vdim=old.vdim,
        batch_first=old.batch_first,
        device="meta",
    )
    for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias"):
        setattr(new, name, getattr(old, name))
    new.out_proj = old.out_proj
    return new


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


@torch.no_grad()
def _output(model: nn.Module, inputs: Any) -> Tensor:
    """The first tensor that the model returns, of real tokens alone."""
    training = model.training
    model.eval()
    if isinstance(inputs, Mapping):
        out = model(**inputs)
    else:
        out = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    model.train(training)
    while not isinstance(out, Tensor):
        out = next(iter(out.values() if isinstance(out, Mapping) else out))
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    return out if mask is None or mask.shape != out.shape[:2] else out[mask.bool()]


def _change(model: nn.Module, inputs: Any, before: Tensor) -> float:
    return ((_output(model, inputs) - before).norm() / before.norm()).item()
