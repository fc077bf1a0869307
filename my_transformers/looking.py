"""Look inside a model: the attention weights of every layer for one input, whatever the mechanism."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from my_transformers.sublayers import MultiHeadAttention


@contextmanager
def recorded_weights(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Inside, each forward of a model leaves its attention weights in the dictionary.

    They are those of the mechanism as it really computes them (:meth:`~my_transformers.MultiHeadAttention.weights`): an
    LSH layer hashes as it did in the forward, a Performer uses the same random features. Nothing stays on the model.

    Args:
        model: in eval mode.

    Yields:
        An empty dictionary that fills with (b, h, n, m) for each :class:`~my_transformers.MultiHeadAttention`, by its
        name in the model, such as ``stack.layers.0.attention``; in the order in which they run.
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
