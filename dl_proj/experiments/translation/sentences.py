"""Sentences as tokens and back, in two languages: each sentence ends with a symbol that no text contains."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dl_proj.settings.errors import ConfigError, reason
from dl_proj.text.tokenizers import SubwordTokenizer, load_tokenizer, train_bpe


class SentenceTokenizer:
    """Subwords of sentences, as if a space stood before each: its first word is the same symbol as in mid-sentence.

    Args:
        subwords: of any text.

    Raises:
        ValueError: the subwords do not spell every text exactly.
    """

    def __init__(self, subwords: SubwordTokenizer) -> None:
        if not subwords.exact:
            raise ValueError("it does not spell every text exactly; take a byte-level BPE that changes nothing before")
        self.subwords = subwords

    @property
    def n_symbols(self) -> int:
        """Symbols that sentences are made of, 0 to n_symbols - 1."""
        return self.subwords.n_symbols

    @property
    def boundary(self) -> int:
        """The last symbol: it ends a sentence, starts a target, and fills what is masked as padding."""
        return self.n_symbols

    @property
    def vocab_size(self) -> int:
        """Symbols with the boundary."""
        return self.n_symbols + 1

    @property
    def bytes_of(self) -> Tensor:
        """(vocab_size,) int64: bytes of text that each symbol stands for, the space before a sentence among them."""
        return torch.tensor([len(piece) for piece in self.subwords.pieces] + [0])

    @property
    def digest(self) -> str:
        """A word for all that decides which tokens a sentence becomes."""
        return self.subwords.digest

    def encode(self, sentences: Iterable[str]) -> list[list[int]]:
        """Tokens of each sentence, without a boundary."""
        return self.subwords.encode_each([f" {sentence}" for sentence in sentences])

    def decode(self, tokens: Iterable[int]) -> str:
        """The sentence of tokens; boundaries stand for no text."""
        return self.subwords.decode(token for token in tokens if token != self.boundary).removeprefix(" ")

    def save(self, path: Path) -> None:
        """Write a tokenizer.json of the library."""
        self.subwords.save(path)


def learn_sentences(sentences: Iterable[str], vocab_size: int) -> SentenceTokenizer:
    """Byte-level BPE of sentences, which are read once; see :func:`~dl_proj.text.tokenizers.train_bpe`."""
    return SentenceTokenizer(train_bpe((f" {sentence}" for sentence in sentences), vocab_size))


@dataclass(frozen=True)
class PairTokenizers:
    """The source's and the target's; a joint one is both."""

    source: SentenceTokenizer
    target: SentenceTokenizer

    @property
    def joint(self) -> bool:
        """Whether both languages share their symbols."""
        return self.source is self.target

    @property
    def digest(self) -> list[str]:
        """The source's and the target's."""
        return [self.source.digest, self.target.digest]

    def save(self, path: Path) -> None:
        """Write what :func:`saved_tokenizers` reads: ``path`` if joint, or else two files beside it."""
        source, target = tokenizer_paths(path, joint=self.joint)
        self.source.save(source)
        self.target.save(target)


def tokenizer_paths(path: Path, *, joint: bool) -> tuple[Path, Path]:
    """The source's and the target's file: ``path`` for both, or ``source_`` and ``target_`` before its name."""
    return (path, path) if joint else (path.with_name(f"source_{path.name}"), path.with_name(f"target_{path.name}"))


def saved_tokenizers(path: Path, *, joint: bool) -> PairTokenizers:
    """The tokenizers that a model was trained with.

    Raises:
        ConfigError: a file is not there, or is not such a tokenizer.
    """
    return load_tokenizers(tokenizer_paths(path, joint=joint), joint=joint)


def load_tokenizers(paths: Iterable[Path], *, joint: bool) -> PairTokenizers:
    """Tokenizers of files: one, or if not joint the source's and the target's.

    Raises:
        ConfigError: a file is not there, or is not such a tokenizer.
    """
    first, *others = paths
    source = _load(first)
    return PairTokenizers(source, source if joint else _load(others[0]))


def _load(path: Path) -> SentenceTokenizer:
    try:
        return SentenceTokenizer(load_tokenizer(path))
    except OSError as error:
        raise ConfigError(f"data.tokenizer: {path}: {reason(error)}") from None
    except ValueError as error:
        raise ConfigError(f"data.tokenizer: {path} is no tokenizer of sentences ({error})") from None
