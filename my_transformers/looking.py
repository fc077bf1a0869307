"""Attention weights of every layer of a model for one input, whatever the mechanism."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from my_transformers.sublayers import MultiHeadAttention


@contextmanager
def recorded_weights(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Context manager: each forward of the model records its attention weights in the yielded dictionary.

    They are the weights that the mechanism really uses (:meth:`~my_transformers.MultiHeadAttention.weights`): an LSH
    layer uses the buckets of the forward, a Performer the same random features. Nothing stays on the model.

    Args:
        model: in eval mode.

    Yields:
        A dictionary, empty at first. A forward adds one (b, h, n, m) tensor for each
        :class:`~my_transformers.MultiHeadAttention`, in the order in which they run; the key is the module's name in
        the model, such as ``stack.layers.0.attention``.
    """
    found: dict[str, Tensor] = {}

    def hook(name: str, module: MultiHeadAttention) -> Any:
        def look(_: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
            found[name] = module.weights(*positional, **named)

        return module.register_forward_pre_hook(look, with_kwargs=True)

    handles = [hook(name, module) for name, module in model.named_modules() if isinstance(module, MultiHeadAttention)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
