"""Sentence pairs as tokens, read from files as they are asked for: a corpus may be larger than memory."""

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
    """What became of a part's pairs.

    Args:
        pairs: all there are.
        empty: left out, because a side is nothing, or nothing but white space.
        too_long: left out, because a side has more tokens than allowed.
    """

    pairs: int
    empty: int
    too_long: int

    @property
    def kept(self) -> int:
        """What is trained or measured on."""
        return self.pairs - self.empty - self.too_long


class TokenPairs(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of sentences, of which ``max_length`` tokens a side are the most, the boundary at their ends counted.

    An item is (source with a boundary at its end, target with one at its start and its end): (m,) and (n + 1,) int64.

    Args:
        path: a file of :func:`load_pairs`.
        tokenizers: that made it.
        max_length: longer pairs are left out, as those with an empty side.
        by_length: short pairs first; or else in the file's order.

    Attributes:
        digest: another one as soon as the pairs or their tokenizers are.
        counts: of the pairs that are left out.
        sizes: (pairs,) int64, the longer of m and n.
    """

    def __init__(self, path: Path, tokenizers: PairTokenizers, max_length: int, *, by_length: bool) -> None:
        self.digest = path.stem  # which ends with a digest of what the file was made of
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
        """Pairs."""
        return len(self._kept)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """See the class."""
        row = self._rows[int(self._kept[index])]
        source, target = (row.column(side)[0].values.to_numpy().astype(np.int64) for side in range(2))
        of_source, of_target = self._boundaries
        return (
            torch.from_numpy(np.append(source, of_source)),
            torch.from_numpy(np.concatenate(([of_target], target, [of_target]))),
        )

    def collate(self, items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A batch of b items, each side as long as its longest.

        Returns:
            Source (b, m) int64, its mask (b, m) bool, True where a token is real, target (b, n + 1) and its mask. What
            is not real is the boundary.
        """
        sides = zip(*items, strict=True)
        source, target = (padded(*side) for side in zip(sides, self._boundaries, strict=True))
        return *source, *target


def padded(sentences: Sequence[Tensor], boundary: int) -> tuple[Tensor, Tensor]:
    """Sentences (n,) int64 as a batch (b, longest n) and its mask, True where a token is real; the rest is boundary."""
    lengths = torch.tensor([len(sentence) for sentence in sentences])
    tokens = pad_sequence(list(sentences), batch_first=True, padding_value=boundary)
    return tokens, torch.arange(tokens.shape[1]) < lengths.unsqueeze(1)


@dataclass(frozen=True)
class PairData:
    """The three parts of a corpus, and their tokens' meaning; validation and test are sorted by length."""

    train: TokenPairs
    val: TokenPairs
    test: TokenPairs
    tokenizers: PairTokenizers

    @property
    def counts(self) -> dict[Split, PairCounts]:
        """What was left out of each part."""
        return {split: getattr(self, split).counts for split in _SPLIT_NAMES}


def load_pairs(config: PairsConfig, *, seed: int, saved: PairTokenizers | None = None) -> PairData:
    """Pairs of a corpus, tokenised once into ``root/tokens``.

    Args:
        config: which pairs and tokens.
        seed: of the choice of training pairs that are held out, if any are.
        saved: tokenizers to use, instead of learning them from the training pairs.

    Raises:
        ConfigError: what cannot be read (see :func:`~dl_proj.experiments.translation.pair_sets.raw_pairs`), or a part
            of which nothing is left.
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
    nothing = [
        f"data: no {_SPLIT_NAMES[split]} pairs are left; {_left_out(part.counts, config)}"
        for split, part in parts.items()
        if not len(part)
    ]
    if nothing:
        raise ConfigError(*nothing)
    return PairData(**parts, tokenizers=tokenizers)


def say_counts(data: PairData, config: PairsConfig) -> None:
    """Tell on standard error, a line a part, how many pairs there are and how many are left out."""
    for split, counts in data.counts.items():
        print(f"{_SPLIT_NAMES[split]} pairs: {counts.kept}; {_left_out(counts, config)}", file=sys.stderr)


def _left_out(counts: PairCounts, config: PairsConfig) -> str:
    return (
        f"of {counts.pairs}, {counts.empty} with an empty side and {counts.too_long} with one of more than "
        f"{config.max_length} tokens (data.max_length) are left out"
    )


def _tokenizers(config: PairsConfig, train: RawPairs) -> PairTokenizers:
    settings = config.tokenizer
    if settings.paths:
        return load_tokenizers(settings.paths, joint=settings.joint)
    sides: list[tuple[int, ...]] = [(0, 1)] if settings.joint else [(0,), (1,)]
    return load_tokenizers((_learnt(config, train, some) for some in sides), joint=settings.joint)


def _learnt(config: PairsConfig, train: RawPairs, sides: tuple[int, ...]) -> Path:
    """The file of a tokenizer of one side or both, made if it is not there."""
    languages = "-".join(train.columns[side] for side in sides)
    name = f"{train.name}-{languages}-bpe{config.tokenizer.vocab_size}-{train.key}.json"
    return made_once(config.root / "tokens" / name, lambda part: _learn(part, config, train, sides))


def _learn(part: Path, config: PairsConfig, train: RawPairs, sides: tuple[int, ...]) -> None:
    batches = _progress(f"learning subwords of {train.name}", train)
    sentences = (sentence for batch in batches for side in sides for sentence in batch[side])
    learn_sentences(sentences, config.tokenizer.vocab_size).save(part)


def _token_file(config: PairsConfig, pairs: RawPairs, tokenizers: PairTokenizers) -> Path:
    """Tokens of all pairs, without boundaries; a sentence of white space has none."""
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
    """The batches of pairs; a bar shows how far they are."""
    with tqdm(desc=what, total=len(pairs), unit="pair", delay=1, dynamic_ncols=True, leave=False) as bar:
        for batch in pairs.batches():
            yield batch
            bar.update(len(batch[0]))
