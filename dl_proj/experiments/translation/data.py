"""Tokenised sentence pairs, read from files on demand: a corpus may be larger than memory."""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from tqdm import tqdm

from dl_proj.experiments.language.sources import Split
from dl_proj.experiments.translation.data_settings import PairsConfig
from dl_proj.experiments.translation.pair_sets import raw_pairs
from dl_proj.experiments.translation.sentences import (
    PairTokenizers,
    SentenceTokenizer,
    learn_sentences,
    load_tokenizers,
)
from dl_proj.experiments.translation.sources import RawPairs, open_arrow, write_arrow
from dl_proj.settings.errors import ConfigError, reason
from my_custom_ai.utils.files import made_once

_SPLIT_NAMES: dict[Split, str] = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class PairCounts:
    """The numbers of a split's pairs.

    Args:
        pairs: all pairs.
        empty: pairs skipped because a side is empty or only white space.
        too_long: pairs skipped because a side has too many tokens.
    """

    pairs: int
    empty: int
    too_long: int

    @property
    def kept(self) -> int:
        """The number of pairs that are used."""
        return self.pairs - self.empty - self.too_long


class TokenPairs(Dataset[tuple[Tensor, Tensor]]):
    """Sentence pairs with at most ``max_length`` tokens per side, including the boundary at the end.

    An item is a source with a boundary at its end, (m,) int64, and a target with a boundary at its start and end,
    (n + 1,) int64.

    Args:
        path: a file written by :func:`load_pairs`.
        tokenizers: the tokenizers that produced it.
        max_length: longer pairs are skipped, as are those with an empty side.
        by_length: sort pairs by length; otherwise they are in the file's order.

    Attributes:
        digest: identifies the pairs and their tokenizers.
        counts: the numbers of used and skipped pairs.
        sizes: (pairs,) int64, the larger of m and n.
    """

    def __init__(self, path: Path, tokenizers: PairTokenizers, max_length: int, *, by_length: bool) -> None:
        self.digest = path.stem  # ends with a digest of the file's origin
        self._rows = open_arrow(path).with_format("arrow")
        self._boundaries = (tokenizers.source.boundary, tokenizers.target.boundary)
        lengths = np.stack([pc.list_value_length(self._rows.data.column(side)).to_numpy() for side in range(2)])
        empty, sizes = lengths.min(axis=0) == 0, lengths.max(axis=0).astype(np.int64) + 1
        too_long = ~empty & (sizes > max_length)
        self.counts = PairCounts(len(sizes), int(empty.sum()), int(too_long.sum()))
        kept = np.flatnonzero(~empty & ~too_long)
        self._kept = kept[np.argsort(sizes[kept], kind="stable")] if by_length else kept
        self.sizes = sizes[self._kept]

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._kept)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return an item, see the class."""
        row = self._rows[int(self._kept[index])]
        source, target = (row.column(side)[0].values.to_numpy().astype(np.int64) for side in range(2))
        source_boundary, target_boundary = self._boundaries
        return (
            torch.from_numpy(np.append(source, source_boundary)),
            torch.from_numpy(np.concatenate(([target_boundary], target, [target_boundary]))),
        )

    def collate(self, items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Make a batch of b items, padding each side to its longest with the boundary.

        Returns:
            Source (b, m) int64, its mask (b, m) bool, True where a token is real, target (b, n + 1) and its mask.
        """
        sides = zip(*items, strict=True)
        source, target = (padded(*side) for side in zip(sides, self._boundaries, strict=True))
        return *source, *target


def padded(sentences: Sequence[Tensor], boundary: int) -> tuple[Tensor, Tensor]:
    """Pad sentences (n,) int64 with ``boundary`` to a batch (b, longest n); its mask is True where a token is real."""
    lengths = torch.tensor([len(sentence) for sentence in sentences])
    tokens = pad_sequence(list(sentences), batch_first=True, padding_value=boundary)
    return tokens, torch.arange(tokens.shape[1]) < lengths.unsqueeze(1)


@dataclass(frozen=True)
class PairData:
    """The three splits of a corpus and their tokenizers; validation and test are sorted by length."""

    train: TokenPairs
    val: TokenPairs
    test: TokenPairs
    tokenizers: PairTokenizers

    @property
    def counts(self) -> dict[Split, PairCounts]:
        """The numbers of used and skipped pairs of each split."""
        return {split: getattr(self, split).counts for split in _SPLIT_NAMES}


def load_pairs(config: PairsConfig, *, seed: int, saved: PairTokenizers | None = None) -> PairData:
    """Load the pairs of a corpus, tokenised once into ``root/tokens``.

    Args:
        config: settings of the pairs and tokens.
        seed: seed of the choice of held-out training pairs, if any.
        saved: tokenizers to use, instead of training them on the training pairs.

    Raises:
        ConfigError: data that cannot be read (see :func:`~dl_proj.experiments.translation.pair_sets.raw_pairs`), or a
            split without usable pairs.
    """
    corpus = {split: raw_pairs(config, split, seed=seed) for split in _SPLIT_NAMES}
    try:
        tokenizers = saved or _tokenizers(config, corpus["train"])
        parts = {
            split: TokenPairs(
                _token_file(config, pairs, tokenizers), tokenizers, config.max_length, by_length=split != "train"
            )
            for split, pairs in corpus.items()
        }
    except (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise ConfigError(f"data: {error.filename}: {reason(error)}") from None
    unusable = [
        f"data: no usable {_SPLIT_NAMES[split]} pairs; {_skipped(part.counts, config)}"
        for split, part in parts.items()
        if not len(part)
    ]
    if unusable:
        raise ConfigError(*unusable)
    return PairData(**parts, tokenizers=tokenizers)


def say_counts(data: PairData, config: PairsConfig) -> None:
    """Print on standard error, for each split, how many pairs are used and skipped."""
    for split, counts in data.counts.items():
        print(f"{_SPLIT_NAMES[split]} pairs: {counts.kept}; {_skipped(counts, config)}", file=sys.stderr)


def _skipped(counts: PairCounts, config: PairsConfig) -> str:
    return (
        f"skipped of {counts.pairs}: {counts.empty} with an empty side, {counts.too_long} with more than "
        f"{config.max_length} tokens (data.max_length)"
    )


def _tokenizers(config: PairsConfig, train: RawPairs) -> PairTokenizers:
    settings = config.tokenizer
    if settings.paths:
        return load_tokenizers(settings.paths, joint=settings.joint)
    sides: list[tuple[int, ...]] = [(0, 1)] if settings.joint else [(0,), (1,)]
    return load_tokenizers((_tokenizer_file(config, train, some) for some in sides), joint=settings.joint)


def _tokenizer_file(config: PairsConfig, train: RawPairs, sides: tuple[int, ...]) -> Path:
    """Return the file of a tokenizer for one side or both, training it if it does not exist."""
    languages = "-".join(train.columns[side] for side in sides)
    name = f"{train.name}-{languages}-bpe{config.tokenizer.vocab_size}-{train.key}.json"
    return made_once(config.root / "tokens" / name, lambda part: _train_tokenizer(part, config, train, sides))


def _train_tokenizer(part: Path, config: PairsConfig, train: RawPairs, sides: tuple[int, ...]) -> None:
    batches = _progress(f"training tokenizer on {train.name}", train)
    sentences = (sentence for batch in batches for side in sides for sentence in batch[side])
    learn_sentences(sentences, config.tokenizer.vocab_size).save(part)


def _token_file(config: PairsConfig, pairs: RawPairs, tokenizers: PairTokenizers) -> Path:
    """Return the file with the tokens of all pairs, without boundaries; a sentence of only white space has none."""
    sides = (tokenizers.source, tokenizers.target)
    digest = hashlib.sha256("".join([pairs.key, *(side.digest for side in sides)]).encode()).hexdigest()[:12]
    schema = pa.schema(
        [(name, pa.list_(_token_type(side))) for name, side in zip(("source", "target"), sides, strict=True)]
    )
    batches = (
        tuple(_encode(side, sentences) for side, sentences in zip(sides, batch, strict=True))
        for batch in _progress(f"tokens of {pairs.name}", pairs)
    )
    path = config.root / "tokens" / f"{pairs.name}-{'-'.join(pairs.columns)}-{digest}.arrow"
    return made_once(path, lambda part: write_arrow(part, schema, batches))


def _token_type(tokenizer: SentenceTokenizer) -> pa.DataType:
    return pa.from_numpy_dtype(np.min_scalar_type(tokenizer.n_symbols - 1))


def _encode(tokenizer: SentenceTokenizer, sentences: list[str]) -> list[list[int]]:
    encoded = tokenizer.encode(sentences)
    return [tokens if sentence.strip() else [] for tokens, sentence in zip(encoded, sentences, strict=True)]


def _progress(what: str, pairs: RawPairs) -> Iterator[tuple[list[str], list[str]]]:
    """Yield batches of pairs, with a progress bar."""
    with tqdm(desc=what, total=len(pairs), unit="pair", delay=1, dynamic_ncols=True, leave=False) as bar:
        for batch in pairs.batches():
            yield batch
            bar.update(len(batch[0]))
