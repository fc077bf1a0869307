"""The base class of every attention mechanism."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from my_transformers.cache import Cache
from my_transformers.settings import CAPABILITIES, MechanismSettings


class Mechanism(nn.Module):
    """Base of every attention mechanism: heads in, heads out.

    Subclasses define ``forward(q, k, v, *, mask=None)``, or ``forward(qk, v, *, mask=None)`` if they share queries and
    keys, on (batch, heads, length, head_dim). Those with ``steps`` also define ``new_cache(like, max_len)`` and
    ``step(q, k, v, cache)``, which takes one or more tokens. CONTRIBUTING.md lists the rules that all mechanisms
    follow, docs/modules.md the inputs they accept. ``forward`` begins with
    :func:`~my_transformers.checks.check_heads` and :func:`~my_transformers.masks.boolean_mask`.

    ``class X(Mechanism, settings=XSettings)`` copies its capabilities from its settings (see
    :class:`~my_transformers.settings.MechanismSettings`); a class without settings sets them itself.
    """

    directions: ClassVar[tuple[bool, ...]] = (False, True)
    steps: ClassVar[bool] = True
    cross: ClassVar[bool] = False
    shared_query_key: ClassVar[bool] = False
    needs_max_len: ClassVar[bool] = False

    causal: bool
    """a token attends only to itself and earlier tokens"""

    @property
    def has_weights(self) -> bool:
        """Whether each output is a weighted sum of values, so that attention weights exist."""
        return True

    if TYPE_CHECKING:  # optional methods: ``step`` is described above, the others in MultiHeadAttention
        step: Callable[..., Tensor]
        shorten: Callable[..., tuple[Tensor, Tensor, Tensor | None]]
        summarize: Callable[..., tuple[Tensor, Tensor]]
        attend: Callable[..., Tensor]

    def __init_subclass__(cls, settings: type[MechanismSettings] | None = None, **others: Any) -> None:
        super().__init_subclass__(**others)
        if settings is not None:
            for name in CAPABILITIES:
                setattr(cls, name, getattr(settings, name))

    def new_cache(self, like: Tensor, max_len: int) -> Cache:
        """An empty cache for decoding up to ``max_len`` tokens; ``like`` is (b, h, any, d).

        Raises:
            ValueError: always, unless a subclass that can decode step by step overrides this.
        """
        raise ValueError(f"step-by-step decoding needs causal=True, which {type(self).__name__} cannot be")
