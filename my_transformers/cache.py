"""Base class of decoding caches: it checks new tokens, and reorders the sequences of a batch."""

from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor


class Cache:
    """Base of every mechanism's cache: a dataclass whose tensors all have the batch as first axis.

    That makes beam search work with any mechanism: it continues some sequences several times and drops others. State
    that all sequences share, such as a hash function, must not be a tensor field.
    """

    by_token: ClassVar[tuple[str, ...]] = ()
    """Names of tensors (b, h, max_len, ·) of which only the first ``length`` tokens need copying."""

    length: int  # tokens so far
    max_len: int

    @property
    def size(self) -> int:
        """The number of elements of its tensors, including nested caches."""
        return sum(tensor.numel() for tensor in _tensors_in(self))

    @property
    def n_bytes(self) -> int:
        """Bytes of its tensors, including nested caches."""
        return sum(tensor.numel() * tensor.element_size() for tensor in _tensors_in(self))

    def select_rows(self, rows: Tensor) -> None:
        """Reorder: new sequence i is a copy of old sequence rows[i]; rows is int64 (any,)."""
        for name, value in list(vars(self).items()):
            if name in self.by_token:
                setattr(self, name, _tokens_of(value, rows, self.length))
            else:
                setattr(self, name, rows_of(value, rows))

    def check(self, *new: Tensor, batch: int, heads: int, widths: tuple[int, ...]) -> None:
        """Raise ValueError unless each tensor of ``new`` is (batch, heads, t, its width) and t more tokens fit."""
        shapes = [tuple(x.shape) for x in new]
        if any(
            len(shape) != 4 or shape != (batch, heads, shapes[0][2], width)
            for shape, width in zip(shapes, widths, strict=True)
        ):
            wanted = ", ".join(f"({batch}, {heads}, tokens, {width})" for width in widths)
            raise ValueError(
                f"the cache holds {batch} sequences of {heads} heads, so a step takes tensors of shape {wanted} with "
                f"the same number of tokens, got {', '.join(map(str, shapes))}"
            )
        if self.length + shapes[0][2] > self.max_len:
            raise ValueError(
                f"the cache is full: it has room for max_len={self.max_len} tokens, holds {self.length}, and the step "
                f"adds {shapes[0][2]}"
            )


def check_causal(causal: bool) -> None:
    """Raise ValueError unless ``causal``: otherwise decoding step by step cannot equal the parallel forward."""
    if not causal:
        raise ValueError("step-by-step decoding needs causal=True: otherwise a token also attends to later ones")


def _tensors_in(value: Any) -> Iterator[Tensor]:
    match value:
        case Tensor():
            yield value
        case Cache():
            yield from _tensors_in(tuple(vars(value).values()))
        case tuple():
            for part in value:
                yield from _tensors_in(part)


def _tokens_of(memory: Tensor, rows: Tensor, length: int) -> Tensor:
    """Select rows. Reuse the memory unless the batch grows: newly allocated memory costs a page fault per 4 KiB."""
    selected = memory[:, :, :length].index_select(0, rows)
    enough = len(rows) <= len(memory)
    memory = memory[: len(rows)] if enough else memory.new_zeros(len(rows), *memory.shape[1:])
    memory[:, :, :length] = selected
    return memory


def rows_of(value: Any, rows: Tensor) -> Any:
    """Select rows of a tensor, of a cache, or of each in a tuple; other values are shared by the batch, unchanged."""
    match value:
        case Tensor():
            return value.index_select(0, rows)
        case Cache():
            value.select_rows(rows)
            return value
        case tuple():
            return type(value)(*(rows_of(part, rows) for part in value))
    return value
