"""The reversible residual stack: activation memory that does not grow with depth.

Gomez et al. 2017; Kitaev et al. 2020, section 3, equations 7 to 9. Each layer maps two streams,

    y1 = x1 + attention(x2),    y2 = x2 + feed_forward(y1),

and can be inverted: x2 = y2 - feed_forward(y1), x1 = y1 - attention(x2). So backward needs only the last layer's
output; it walks down the stack, reconstructs each layer's input and runs the layer once more.
"""

from typing import Any

import torch
from torch import Tensor, nn

from my_transformers.layers import EncoderLayer
from my_transformers.replay import Recording


class ReversibleStack(nn.Module):
    """Pre-norm layers as a reversible stack; both streams start as x, their mean is normalised at the end.

    Dropout, LSH buckets and autocast are replayed exactly (replay.py), which keeps one int32 a token, head and round
    for each LSH layer and nothing else that grows with depth. Parameters' gradients are returned to autograd rather
    than written, so hooks on them work: DistributedDataParallel, torch.autograd.grad, gradient accumulation.
    First derivatives only. Use autocast around the whole model, not inside it.

    Args:
        layers: one or more, with norm="pre".
        dim: of the activations.

    Raises:
        ValueError: a layer has norm="post": normalising the residual itself cannot be undone.
    """

    def __init__(self, layers: list[EncoderLayer], *, dim: int) -> None:
        super().__init__()
        if any(layer.norm != "pre" for layer in layers):
            raise ValueError("a reversible stack needs layers with norm='pre': norm='post' cannot be inverted")
        self.layers = nn.ModuleList(layers)
        self.final_norm = nn.LayerNorm(dim)

    @torch.compiler.disable  # generator states and recomputation are for eager autograd
    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """X (b, n, dim), mask (b, n) True where a token is real -> (b, n, dim)."""
        layers = list(self.layers)
        y1, y2 = _Reversible.apply(layers, mask, x, *_trainable(layers))
        return self.final_norm((y1 + y2) / 2)

    def new_cache(self, batch: int, max_len: int) -> list[object]:
        """A cache for each layer."""
        return [layer.new_cache(batch, max_len) for layer in self.layers]

    def step(self, x: Tensor, caches: list[object]) -> Tensor:
        """One more token x (b, 1, dim) -> (b, 1, dim); the caches take it in."""
        x1, x2 = x, x
        for layer, cache in zip(self.layers, caches, strict=True):
            x1 = x1 + layer.attend_step(x2, cache)
            x2 = x2 + layer.transform(x1)
        return self.final_norm((x1 + x2) / 2)


class _Reversible(torch.autograd.Function):
    """The whole stack as one node, that saves its last output alone."""

    @staticmethod
    def forward(ctx: Any, layers: list[EncoderLayer], mask: Tensor | None, x: Tensor, *parameters: Tensor) -> Any:
        x1, x2 = x, x
        ctx.layers, ctx.mask, ctx.recordings = layers, mask, []
        for layer in layers:
            attended = Recording(like=x)
            with attended.record():
                x1 = x1 + layer.attend(x2, mask=mask)
            transformed = Recording(like=x)
            with transformed.record():
                x2 = x2 + layer.transform(x1)
            ctx.recordings.append((attended, transformed))
        ctx.save_for_backward(x1, x2)
        return x1, x2

    @staticmethod
    def backward(ctx: Any, grad1: Tensor, grad2: Tensor) -> Any:
        y1, y2 = ctx.saved_tensors
        found: dict[nn.Parameter, Tensor] = {}
        for layer, (attended, transformed) in zip(reversed(ctx.layers), reversed(ctx.recordings), strict=True):
            own = _trainable([layer])
            with transformed.replay():
                x2, grad1 = _undo(layer.transform, y1, y2, grad1, grad2, own, found)
            with attended.replay():
                x1, grad2 = _undo(lambda x, run=layer: run.attend(x, mask=ctx.mask), x2, y1, grad2, grad1, own, found)
            y1, y2 = x1, x2
        return None, None, grad1 + grad2, *(found.get(p) for p in _trainable(ctx.layers))


def _trainable(layers: list[EncoderLayer]) -> list[nn.Parameter]:
    """Parameters that want a gradient, each once, also where layers share some."""
    return list(dict.fromkeys(p for layer in layers for p in layer.parameters() if p.requires_grad))


def _undo(
    branch: Any,
    source: Tensor,
    target: Tensor,
    grad_source: Tensor,
    grad_target: Tensor,
    parameters: list[nn.Parameter],
    found: dict[nn.Parameter, Tensor],
) -> tuple[Tensor, Tensor]:
    """Undo target = x + branch(source): gives x and the gradient that source gets by both ways.

    The parameters' gradients are added to ``found``.
    """
    with torch.enable_grad():
        source = source.detach().requires_grad_()
        added = branch(source)
        gradients = torch.autograd.grad(added, [source, *parameters], grad_target, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients[1:], strict=True):
        if gradient is not None:
            found[parameter] = found[parameter] + gradient if parameter in found else gradient
    return target - added.detach(), grad_source + gradients[0]
