"""Text as tokens and back."""

import codecs
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

_MASK = b"[MASK]"


class Tokenizer:
    """Bytes as tokens: token t is the byte t; the mask is one symbol more, which no text contains.

    Subclasses have other pieces of text as tokens.

    Args:
        pieces: bytes that each token stands for.
        n_special: so many tokens, the first ones, stand for no text.
    """

    def __init__(self, pieces: list[bytes] | None = None, n_special: int = 0) -> None:
        self._pieces = [bytes([byte]) for byte in range(256)] if pieces is None else pieces
        self._n_special = n_special

    @property
    def n_symbols(self) -> int:
        """Tokens that text may become: 0 to n_symbols - 1; the vocabulary of a causal model."""
        return len(self._pieces)

    @property
    def mask_token(self) -> int:
        """The mask: the last symbol."""
        return self.n_symbols

    @property
    def vocab_size(self) -> int:
        """Symbols with the mask; the vocabulary of a masked model."""
        return self.n_symbols + 1

    @property
    def ordinary(self) -> range:
        """Tokens that stand for text: no special ones, no mask."""
        return range(self._n_special, self.n_symbols)

    @property
    def starts_word(self) -> Tensor:
        """(vocab_size,) bool: whether a word begins with the token; a word is letters and digits with what leads them.

        Bytes of other alphabets count as letters.
        """
        return torch.tensor([not _continues_word(piece[0]) for piece in self._pieces] + [True])

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, each below n_symbols."""
        return list(text.encode())

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; bytes that are no UTF-8 become U+FFFD."""
        return "".join(self.decode_stream(tokens))

    def decode_stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """Whole characters, as soon as their last token came; together what :meth:`decode` gives."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in tokens:
            if text := decoder.decode(_MASK if token == self.mask_token else self._pieces[token]):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text

    def save(self, path: Path) -> None:
        """Write what :func:`load_tokenizer` needs; for bytes that is nothing."""


def _continues_word(byte: int) -> bool:
    return byte >= 128 or chr(byte).isalnum()
