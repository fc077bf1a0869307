"""The reversible residual stacks: activation memory that does not grow with depth.

Gomez et al. 2017; Kitaev et al. 2020, section 3, equations 7 to 9. The residual is split into two streams, and the
sublayers of all layers update them alternately: a sublayer f maps

    (x1, x2) to (y1, y2) = (x2, x1 + f(x2)).

Its inverse is x2 = y1, x1 = y2 - f(y1). The two sublayers of an encoder layer together compute

    y1 = x1 + attention(x2),    y2 = x2 + feed_forward(y1).

A decoder layer has three: attention, cross-attention, feed-forward. Backward therefore needs only the output of the
last layer: it walks down the stack, reconstructs each sublayer's input, and runs the sublayer again.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Generic, Literal, cast

import torch
from torch import Tensor, nn

from my_transformers.cache import Cache
from my_transformers.derivatives import exporting, first_derivatives_only, transformed
from my_transformers.eager import eager
from my_transformers.layers import Branch, CacheT, DecoderCache, DecoderLayer, EncoderLayer, Layer
from my_transformers.replay import Recording
from my_transformers.sharded import like_parameter, one_by_one

_BranchesOf = Callable[[Any, Tensor | None], list[Branch]]
"""(layer, context) -> the layer's residual branches."""
_Saved = tuple[Tensor, Tensor, Tensor | None, *tuple[Tensor, ...]]
"""Both streams at the end, the context, the parameters and masks."""


class _TwoStreams(nn.Module, Generic[CacheT]):
    """Base of both reversible stacks. Both streams start as x; at the end they are joined and normalised."""

    def __init__(
        self,
        layers: Sequence[Layer[CacheT]],
        *,
        dim: int,
        norm_epsilon: float = 1e-5,
        streams: Literal["mean", "concatenate"] = "mean",
    ) -> None:
        super().__init__()
        if streams not in ("mean", "concatenate"):
            raise ValueError(f"streams is {streams!r}, must be 'mean' or 'concatenate'")
        if any(layer.norm != "pre" for layer in layers):
            raise ValueError("a reversible stack needs layers with norm='pre': norm='post' cannot be inverted")
        self.layers = cast("Sequence[Layer[CacheT]]", nn.ModuleList(layers))  # nn.ModuleList loses the element type
        self.streams = streams
        self.out_dim = dim if streams == "mean" else 2 * dim  # width of the output
        self.final_norm = nn.LayerNorm(self.out_dim, norm_epsilon)

    def _join(self, x1: Tensor, x2: Tensor) -> Tensor:
        return self.final_norm((x1 + x2) / 2 if self.streams == "mean" else torch.cat((x1, x2), dim=-1))

    def _run(self, x: Tensor, context: Tensor | None, branches_of: _BranchesOf, *masks: Tensor | None) -> Tensor:
        if not torch.is_grad_enabled() or exporting() or transformed():
            return self._run_plain(x, context, branches_of)  # no backward, or one that must trace each operation
        return self._run_reversible(x, context, branches_of, *masks)

    @eager  # saving generator states and recomputing in backward works in eager mode only
    def _run_reversible(
        self, x: Tensor, context: Tensor | None, branches_of: _BranchesOf, *masks: Tensor | None
    ) -> Tensor:
        layers = list(self.layers)
        return self._join(*_Reversible.apply(layers, branches_of, masks, x, context, *_trainable(layers)))

    def _run_plain(self, x: Tensor, context: Tensor | None, branches_of: _BranchesOf) -> Tensor:
        x1, x2 = x, x
        traced = torch.compiler.is_compiling() or exporting()  # in which FSDP cannot gather
        for layer in self.layers if traced else one_by_one(self.layers):
            for branch in branches_of(layer, context):
                x1, x2 = x2, x1 + branch(x2)
        return self._join(x1, x2)

    def step(self, x: Tensor, caches: list[CacheT]) -> Tensor:
        """Map the next t tokens x (b, t, dim) to (b, t, out_dim), and add them to the caches."""
        x1, x2 = x, x
        for layer, cache in zip(self.layers, caches, strict=True):
            for branch in layer.step_branches(cache):
                x1, x2 = x2, x1 + branch(x2)
        return self._join(x1, x2)


class ReversibleStack(_TwoStreams[Cache]):
    """Pre-norm encoder layers as a reversible stack. Both streams start as x, and their join is normalised at the end.

    Dropout, LSH buckets and autocast are replayed exactly in backward (replay.py). Each LSH layer keeps its buckets for
    that, one int32 per token, head and round; no other saved tensor grows with depth. Parameter gradients are returned
    to autograd rather than written to ``grad``, so hooks work: DistributedDataParallel, torch.autograd.grad, gradient
    accumulation. Under FSDP2 (``fully_shard`` of the layers and of the model), parameters are gathered layer by layer,
    and gradients are sharded. First derivatives only. Use autocast around the whole model, not inside it. Without
    gradients, and under torch.export and torch.func, the same function runs as an ordinary stack. Under torch.compile,
    training has a graph break here.

    The stack calls a layer's sublayers, not the layer: forward hooks on a layer do not run. Hooks on its ``attention``
    and ``feed_forward`` run, and again when backward recomputes these.

    Definition: my_transformers/reference.py, reversible_block, inverse_of_reversible_block.

    Args:
        layers: at least one EncoderLayer, all with norm="pre".
        dim: width of the activations.
        norm_epsilon: epsilon of the final normalisation.
        streams: how the streams are joined: "mean" (output width dim) or "concatenate" (2 * dim).

    Raises:
        ValueError: a layer has norm="post": normalising the residual itself cannot be inverted.
    """

    layers: Sequence[EncoderLayer]

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Map x (b, n, dim) to (b, n, out_dim); mask (b, n) is True where a token is real."""
        return self._run(x, None, lambda layer, _: layer.branches(mask=mask), mask)

    def new_cache(self, batch: int, max_len: int) -> list[Cache]:
        """A cache for each layer."""
        return [layer.new_cache(batch, max_len) for layer in self.layers]

    def state_size(self, length: int, dtype: torch.dtype | None = None) -> int:
        """Bytes that decoding keeps per sequence, over all layers; see :meth:`MultiHeadAttention.state_size`."""
        return sum(layer.attention.state_size(length, dtype) for layer in self.layers)


class ReversibleDecoderStack(_TwoStreams[DecoderCache]):
    """:class:`ReversibleStack` of decoder layers, which all attend to the same context. The context gets a gradient.

    Args:
        layers: at least one DecoderLayer, all with norm="pre".
        dim: width of the activations.
        norm_epsilon: epsilon of the final normalisation.
        streams: how the streams are joined: "mean" (output width dim) or "concatenate" (2 * dim).

    Raises:
        ValueError: a layer has norm="post".
    """

    layers: Sequence[DecoderLayer]

    def forward(
        self, x: Tensor, context: Tensor, *, mask: Tensor | None = None, context_mask: Tensor | None = None
    ) -> Tensor:
        """As :meth:`~my_transformers.layers.DecoderLayer.forward`."""
        return self._run(
            x,
            context,
            lambda layer, given: layer.branches(given, mask=mask, context_mask=context_mask),
            mask,
            context_mask,
        )

    def new_cache(
        self, batch: int, max_len: int, context: Tensor, context_mask: Tensor | None = None
    ) -> list[DecoderCache]:
        """A cache for each layer; see :meth:`~my_transformers.layers.DecoderLayer.new_cache`."""
        return [layer.new_cache(batch, max_len, context, context_mask) for layer in self.layers]


class _Reversible(torch.autograd.Function):
    """The whole stack as one autograd node, which saves only its inputs and its final output."""

    @staticmethod
    def forward(
        ctx: Any,
        layers: list[Any],
        branches_of: _BranchesOf,
        masks: tuple[Tensor | None, ...],
        x: Tensor,
        context: Tensor | None,
        *parameters: Tensor,
    ) -> Any:
        x1, x2 = x, x
        ctx.layers, ctx.branches_of, ctx.recordings = layers, branches_of, []
        ctx.modes = {module: module.training for layer in layers for module in layer.modules()}
        ctx.parameters = [_trainable([layer]) for layer in layers]
        for layer in one_by_one(layers):
            for branch in branches_of(layer, context):
                recording = Recording(like=x)
                with recording.record():
                    x1, x2 = x2, x1 + branch(x2)
                ctx.recordings.append(recording)
        # backward recomputes with the parameters and masks themselves, not with saved copies. They are saved only so
        # that autograd raises an error if one was modified in place since.
        ctx.save_for_backward(x1, x2, context, *parameters, *_frozen(layers), *masks)
        return x1, x2

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, saved: _Saved, grad1: Tensor, grad2: Tensor) -> Any:
        y1, y2, context, *_ = saved
        if context is not None:
            context = context.detach().requires_grad_(ctx.needs_input_grad[4])
        shared = [context] if context is not None and context.requires_grad else []
        found: dict[Tensor, Tensor] = {}
        recordings = reversed(ctx.recordings)
        for layer, parameters in zip(one_by_one(ctx.layers[::-1]), ctx.parameters[::-1], strict=True):
            whole = _trainable([layer])  # the parameters themselves, unless they are sharded
            of_layer: dict[Tensor, Tensor] = {}
            for branch in reversed(ctx.branches_of(layer, context)):
                with next(recordings).replay(), _in_modes(layer, ctx.modes):
                    x1, grad1 = _undo(branch, y1, y2, grad1, grad2, whole + shared, of_layer)
                y1, y2, grad1, grad2 = x1, y1, grad2, grad1
            for tensor, parameter in zip(whole + shared, parameters + shared, strict=True):
                if tensor in of_layer:
                    _add(found, parameter, like_parameter(of_layer[tensor], parameter))
        grad_context = None if context is None else found.get(context)
        parameters = dict.fromkeys(chain(*ctx.parameters))
        return None, None, None, grad1 + grad2, grad_context, *(found.get(p) for p in parameters)


def _trainable(layers: Sequence[nn.Module]) -> list[Tensor]:
    """Parameters that require a gradient, each once even if layers share it."""
    return list(dict.fromkeys(p for layer in layers for p in layer.parameters() if p.requires_grad))


def _frozen(layers: list[nn.Module]) -> list[Tensor]:
    """Parameters that require no gradient."""
    return list(dict.fromkeys(p for layer in layers for p in layer.parameters() if not p.requires_grad))


@contextlib.contextmanager
def _in_modes(layer: nn.Module, modes: dict[nn.Module, bool]) -> Iterator[None]:
    """Context manager: put a layer's modules into the mode in which forward ran, whatever mode they are in now."""
    now = {module: module.training for module in layer.modules()}
    try:
        for module in now:
            module.training = modes[module]
        yield
    finally:
        for module, training in now.items():
            module.training = training


def _undo(
    branch: Branch,
    source: Tensor,
    target: Tensor,
    grad_source: Tensor,
    grad_target: Tensor,
    wanted: list[Tensor],
    found: dict[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """Invert target = x + branch(source).

    Returns x, and the gradient of source: ``grad_source`` plus its gradient through the branch. The branch's gradients
    with respect to the ``wanted`` tensors are added to ``found``.
    """
    with torch.enable_grad():
        source = source.detach().requires_grad_()
        added = branch(source)
        with torch.autocast(source.device.type, enabled=False):  # as in any backward; only the forward is replayed
            gradients = torch.autograd.grad(added, [source, *wanted], grad_target, allow_unused=True)
    for tensor, gradient in zip(wanted, gradients[1:], strict=True):
        if gradient is not None:
            _add(found, tensor, gradient)
    return target - added.detach(), grad_source + gradients[0]


def _add(found: dict[Tensor, Tensor], tensor: Tensor, gradient: Tensor) -> None:
    found[tensor] = found[tensor] + gradient if tensor in found else gradient
