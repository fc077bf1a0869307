"""What decoding keeps of the tokens so far, and how the rows of a batch are picked anew."""

from typing import Any, ClassVar

from torch import Tensor


class Cache:
    """A mechanism's cache, a dataclass. Of each sequence it has one row: the first axis of all its tensors.

    So a beam search can continue what it kept, some sequences several times and others not at all, whatever the
    mechanism. What the sequences share, such as a hash function, is no tensor of a cache.
    """

    by_token: ClassVar[tuple[str, ...]] = ()
    """Tensors (b, h, max_len, ·) that are filled up to ``length``; behind it there is nothing to copy."""

    def select_rows(self, rows: Tensor) -> None:
        """Go on with other sequences: number i has what number rows[i] had so far; rows is int64 (any,)."""
        for name, value in list(vars(self).items()):
            if name in self.by_token:
                setattr(self, name, _tokens_of(value, rows, self.length))
            else:
                setattr(self, name, rows_of(value, rows))


def _tokens_of(memory: Tensor, rows: Tensor, length: int) -> Tensor:
    """In place where the rows do not become more: fresh memory costs a page fault every 4 KiB."""
    selected = memory[:, :, :length].index_select(0, rows)
    enough = len(rows) <= len(memory)
    memory = memory[: len(rows)] if enough else memory.new_zeros(len(rows), *memory.shape[1:])
    memory[:, :, :length] = selected
    return memory


def rows_of(value: Any, rows: Tensor) -> Any:
    """Of a tensor, of a cache or tuple of them; anything else is of all sequences."""
    match value:
        case Tensor():
            return value.index_select(0, rows)
        case Cache():
            value.select_rows(rows)
            return value
        case tuple():
            return type(value)(*(rows_of(part, rows) for part in value))
    return value
