"""Pairs for training, validation and test: from their own files, or held out from the training pairs."""

import hashlib
from pathlib import Path

import numpy as np

from dl_proj.experiments.language.sources import Split
from dl_proj.experiments.translation.data_settings import CsvPairsConfig, HubPairsConfig, LinePairsConfig, PairsConfig
from dl_proj.experiments.translation.sources import RawPairs, csv_pairs, hub_pairs, line_pairs, parquet_pairs
from dl_proj.settings.errors import ConfigError, reason
from my_custom_ai.utils.files import made_once

_PARTS: tuple[Split, ...] = ("train", "val", "test")


def raw_pairs(config: PairsConfig, split: Split, *, seed: int) -> RawPairs:
    """Return all pairs of a split, unmodified, converted once into ``root/pairs``.

    Args:
        config: settings of the pairs.
        split: the split.
        seed: seed of the choice of held-out training pairs, if any.

    Raises:
        ConfigError: data that is missing, cannot be downloaded or read, or is not text.
    """
    held_out = {} if isinstance(config.corpus, HubPairsConfig) else config.corpus.held_out
    try:
        if split in held_out or (split == "train" and held_out):
            return _share(_all_pairs(config, "train"), held_out, split, seed, config.root / "pairs")
        return _all_pairs(config, split)
    except (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise ConfigError(f"data: {error.filename}: {reason(error)}") from None


def _all_pairs(config: PairsConfig, split: Split) -> RawPairs:
    """Return all pairs in a split's own files."""
    corpus, folder = config.corpus, config.root / "pairs"
    languages = (config.source_language, config.target_language)
    where = f"data.corpus.{split}"
    match corpus:
        case HubPairsConfig():
            return hub_pairs(corpus, split, languages, folder)
        case LinePairsConfig():
            stem = getattr(corpus, split)
            source, target = (corpus.folder / f"{stem}.{language}" for language in languages)
            return line_pairs(where, (source, target), languages, folder)
        case CsvPairsConfig():
            return csv_pairs(where, getattr(corpus, split), languages, folder)
        case _:
            return parquet_pairs(where, getattr(corpus, split), languages, folder)


def _share(pairs: RawPairs, held_out: dict[str, float], split: Split, seed: int, folder: Path) -> RawPairs:
    """Return the remaining training pairs, or those held out for another split."""
    choice = f"{pairs.key} {sorted(pairs.columns)} {held_out} {seed}"
    key = hashlib.sha256(choice.encode()).hexdigest()[:12]
    path = made_once(folder / f"{pairs.name}-parts-{key}.npy", lambda file: _choose(file, pairs, held_out, seed))
    rows = np.flatnonzero(np.load(path) == _PARTS.index(split))
    if not len(rows):
        shares = " and ".join(f"{name}_share {share}" for name, share in held_out.items())
        raise ConfigError(f"data.corpus: {shares} of {len(pairs)} training pairs leave no pairs for {split}")
    return RawPairs(pairs.rows.select(rows), pairs.columns, f"{pairs.name}-{split}", key)


def _choose(file: Path, pairs: RawPairs, held_out: dict[str, float], seed: int) -> None:
    """Write the index of each pair's split; identical pairs are in the same split.

    The choice does not depend on the direction, so both directions of a language pair hold out the same pairs.
    """
    digests = (hashlib.blake2b("\0".join(sorted(pair)).encode(), digest_size=8).digest() for pair in pairs)
    _, number = np.unique(np.frombuffer(b"".join(digests), np.uint64), return_inverse=True)
    n = number.max(initial=-1) + 1
    place = np.random.default_rng(seed).permutation(n)[number]
    part, start = np.full(len(pairs), _PARTS.index("train"), np.uint8), 0
    for name, share in held_out.items():
        stop = start + round(share * n)
        part[(start <= place) & (place < stop)] = _PARTS.index(name)
        start = stop
    with file.open("wb") as output:
        np.save(output, part)
