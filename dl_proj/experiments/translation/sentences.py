"""Tokenizers of sentences in two languages; each sentence ends with a symbol that no text contains."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dl_proj.settings.errors import ConfigError, reason
from dl_proj.text.tokenizers import SubwordTokenizer, load_tokenizer, train_bpe


class SentenceTokenizer:
    """A tokenizer that prepends a space to each sentence, so that its first word has the same symbol as elsewhere.

    Args:
        subwords: the tokenizer of any text.

    Raises:
        ValueError: the tokenizer does not encode every text exactly.
    """

    def __init__(self, subwords: SubwordTokenizer) -> None:
        if not subwords.exact:
            raise ValueError("it does not encode every text exactly; use a byte-level BPE without a normaliser")
        self.subwords = subwords

    @property
    def n_symbols(self) -> int:
        """Number of symbols in sentences, 0 to n_symbols - 1."""
        return self.subwords.n_symbols

    @property
    def boundary(self) -> int:
        """The last symbol: it ends a sentence, starts a target, and is the padding."""
        return self.n_symbols

    @property
    def vocab_size(self) -> int:
        """Number of symbols, including the boundary."""
        return self.n_symbols + 1

    @property
    def bytes_of(self) -> Tensor:
        """Bytes of text per symbol, including the space before a sentence, (vocab_size,) int64."""
        return torch.tensor([len(piece) for piece in self.subwords.pieces] + [0])

    @property
    def digest(self) -> str:
        """Identifies the mapping from sentences to tokens."""
        return self.subwords.digest

    def encode(self, sentences: Iterable[str]) -> list[list[int]]:
        """Return the tokens of each sentence, without a boundary."""
        return self.subwords.encode_each([f" {sentence}" for sentence in sentences])

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the sentence of the tokens, ignoring boundaries."""
        return self.subwords.decode(token for token in tokens if token != self.boundary).removeprefix(" ")

    def save(self, path: Path) -> None:
        """Write a tokenizer.json of the tokenizers library."""
        self.subwords.save(path)


def learn_sentences(sentences: Iterable[str], vocab_size: int) -> SentenceTokenizer:
    """Train a byte-level BPE on sentences, read once; see :func:`~dl_proj.text.tokenizers.train_bpe`."""
    return SentenceTokenizer(train_bpe((f" {sentence}" for sentence in sentences), vocab_size))


@dataclass(frozen=True)
class PairTokenizers:
    """The tokenizers of source and target; the same object if joint."""

    source: SentenceTokenizer
    target: SentenceTokenizer

    @property
    def joint(self) -> bool:
        """Whether both languages share one vocabulary."""
        return self.source is self.target

    @property
    def digest(self) -> list[str]:
        """The digests of source and target."""
        return [self.source.digest, self.target.digest]

    def save(self, path: Path) -> None:
        """Write the files that :func:`saved_tokenizers` reads: ``path`` if joint, otherwise two files beside it."""
        source, target = tokenizer_paths(path, joint=self.joint)
        self.source.save(source)
        self.target.save(target)


def tokenizer_paths(path: Path, *, joint: bool) -> tuple[Path, Path]:
    """Return the files of source and target: ``path`` for both, or with ``source_`` and ``target_`` before its name."""
    return (path, path) if joint else (path.with_name(f"source_{path.name}"), path.with_name(f"target_{path.name}"))


def saved_tokenizers(path: Path, *, joint: bool) -> PairTokenizers:
    """Load the tokenizers that a model was trained with.

    Raises:
        ConfigError: a file is missing, or is not a suitable tokenizer.
    """
    return load_tokenizers(tokenizer_paths(path, joint=joint), joint=joint)


def load_tokenizers(paths: Iterable[Path], *, joint: bool) -> PairTokenizers:
    """Load tokenizers: one file if joint, otherwise the source's and the target's.

    Raises:
        ConfigError: a file is missing, or is not a suitable tokenizer.
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
        raise ConfigError(f"data.tokenizer: {path} is not a tokenizer of sentences ({error})") from None
