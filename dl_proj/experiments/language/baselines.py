"""Bits per byte of compressors and n-grams, on the held-out text of a language-model training."""

import bz2
import gzip
import lzma
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from dl_proj.experiments.language.data import corpus_of
from dl_proj.experiments.language.ngram import KneserNey, train_ngrams
from dl_proj.experiments.language.settings import LanguageTrainConfig
from dl_proj.experiments.language.sources import Split
from dl_proj.settings.errors import ConfigError
from dl_proj.tables import Row
from my_custom_ai.utils.measure import processor

_HELD_OUT: tuple[Split, ...] = ("val", "test")


@dataclass(frozen=True)
class Compressor:
    """A compressor at its strongest setting.

    Args:
        compress: compresses bytes.
        sees: how far it looks back.
    """

    compress: Callable[[bytes], bytes]
    sees: str


def _xz(text: bytes) -> bytes:
    """Compress with a dictionary as large as the text, so that xz can look back at all of it."""
    size = min(max(len(text), 4096), 1536 * 2**20)  # the format's bounds
    lzma2 = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": size}
    return lzma.compress(text, filters=[lzma2])


COMPRESSORS = {
    "gzip": Compressor(lambda text: gzip.compress(text, 9, mtime=0), "32 KiB"),
    "bz2": Compressor(lambda text: bz2.compress(text, 9), "a block of 900 kB"),
    "xz": Compressor(_xz, "all"),
}
"""The compressors of Python's standard library, by name."""


def text_baselines(config: LanguageTrainConfig, max_order: int) -> list[Row]:
    """Return a row per compressor and per n-gram order, with bits per byte of validation and test text.

    For a compressor, the bits are the growth of its archive when the held-out text is appended to the training text;
    ``<split> alone`` is the archive of the held-out text by itself. An n-gram model is trained on the training text and
    predicts the same bytes as a language model: all but the first.

    Raises:
        ConfigError: the configuration is of a masked model, or the text cannot be read or has an empty split.
    """
    if not config.causal:
        raise ConfigError("objective.kind: must be causal: a masked model has no likelihood to compare with baselines")
    corpus, _ = corpus_of(config.data)
    texts = {split: b"".join(piece for span in spans for piece in span.pieces()) for split, spans in corpus.items()}
    if short := [split for split, text in texts.items() if len(text) < max(2, max_order)]:
        raise ConfigError(f"data: the text for {', '.join(short)} is shorter than n-grams of {max_order} bytes")
    device = {"device": f"{processor()}, 1 thread"}  # all of these are single-threaded
    with tqdm(total=len(COMPRESSORS) + 1, unit="baseline", delay=1, leave=False, dynamic_ncols=True) as bar:
        rows = []
        for name, compressor in COMPRESSORS.items():
            rows.append(_compressed(name, compressor, texts) | device)
            bar.update()
        rows += [row | device for row in _ngrams(texts, max_order)]
        bar.update()
    return rows


def _compressed(name: str, compressor: Compressor, texts: Mapping[Split, bytes]) -> Row:
    since = time.perf_counter()
    train = texts["train"]
    train_size = len(compressor.compress(train))
    row: Row = {"baseline": name, "looks back": compressor.sees}
    for split in _HELD_OUT:
        growth = len(compressor.compress(train + texts[split])) - train_size
        row[f"{split}/bits_per_byte"] = 8 * growth / len(texts[split])
    for split in _HELD_OUT:
        row[f"{split} alone"] = 8 * len(compressor.compress(texts[split])) / len(texts[split])
    return row | {"seconds": round(time.perf_counter() - since, 1)}


def _ngrams(texts: Mapping[Split, bytes], max_order: int) -> list[Row]:
    """Measure n-grams of each order; the time includes a share of the counting, which is done for all at once."""
    since = time.perf_counter()
    models = train_ngrams(texts["train"], max_order)
    counting = time.perf_counter() - since
    rows = []
    for order, model in enumerate(models, 1):
        since = time.perf_counter()
        sees = f"{order - 1} byte{'' if order == 2 else 's'}"
        row: Row = {"baseline": f"{order}-gram", "looks back": sees, "n-grams": model.n_entries}
        row |= {f"{split}/bits_per_byte": bits_per_byte(model, texts[split]) for split in _HELD_OUT}
        rows.append(row | {"seconds": round(counting / max_order + time.perf_counter() - since, 1)})
    return rows


def bits_per_byte(model: KneserNey, text: bytes) -> float:
    """Return the mean of -log2 p over all bytes but the first, which a language model does not predict either."""
    return float(-np.mean(model.log2_probabilities(text)[1:]))
