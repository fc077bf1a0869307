"""Windows of tokens, read from files on demand: a text may be larger than memory."""

import abc
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from dl_proj.experiments.language.data_settings import (
    BPEConfig,
    BytesConfig,
    TextDataConfig,
    TokenizerConfig,
    WordPieceConfig,
)
from dl_proj.experiments.language.hub import hub_corpus
from dl_proj.experiments.language.sources import Corpus, Span, Split, enwik8_corpus, files_corpus, wikitext_corpus
from dl_proj.settings.errors import ConfigError, reason
from dl_proj.text.tokenizers import SubwordTokenizer, Tokenizer, load_tokenizer, train_bpe, train_wordpiece
from my_custom_ai.utils.files import content_digest, made_once, write_once

_BATCH = 2**18  # characters tokenised at once
_DIGEST_BYTES = hashlib.sha256().digest_size  # at the start of a token file
_SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}

Window = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class TokenFile:
    """Tokens in a file: ``length`` of them from byte ``offset`` on, encoding ``n_bytes`` bytes of text.

    ``digest`` identifies the text and its tokenizer.
    """

    path: Path
    dtype: str
    offset: int
    length: int
    n_bytes: int
    digest: str = ""

    def read(self, start: int, stop: int) -> Tensor:
        """Read tokens ``start`` to ``stop`` (exclusive), int64.

        The file is mapped anew for each call: with a permanent mapping, every page ever read would count as memory, and
        the whole mapping would be copied to data-loading processes.
        """
        dtype = np.dtype(self.dtype)
        at = self.offset + start * dtype.itemsize
        tokens = np.memmap(self.path, dtype=dtype, mode="r", offset=at, shape=(stop - start,))
        return torch.from_numpy(tokens.astype(np.int64))


class Windows(Dataset[Window], abc.ABC):
    """Sequences of ``window`` tokens, each with the ``ahead`` tokens after it.

    An item is ``(tokens, counted, bytes_per_token)``: tokens (window + ahead,) int64; counted (window,) bool, True
    where the target (the token ``ahead`` positions later) counts in loss and metrics; bytes_per_token () float32, the
    mean over the whole text.

    Args:
        tokens: the text.
        window: tokens per sequence.
        ahead: 1 to predict the next token, 0 to predict masked ones.

    Raises:
        ValueError: the text is shorter than ``window + ahead``.
    """

    def __init__(self, tokens: TokenFile, window: int, ahead: int) -> None:
        if tokens.length < window + ahead:
            raise ValueError(f"{tokens.length} tokens are fewer than a window of {window} plus {ahead} ahead")
        self._tokens = tokens
        self._window = window
        self._ahead = ahead
        self._targets = tokens.length - ahead

    def __getitem__(self, index: int) -> Window:
        """Return an item, see the class."""
        if not 0 <= index < len(self):
            raise IndexError(f"index must be from 0 to {len(self) - 1} (got {index})")
        start, first_counted = self._place(index)
        tokens = self._tokens.read(start, start + self._window + self._ahead)
        counted = torch.arange(start, start + self._window) >= first_counted
        return tokens, counted, torch.tensor(self._tokens.n_bytes / self._tokens.length)

    @property
    def digest(self) -> str:
        """The digest of the tokens."""
        return self._tokens.digest

    @abc.abstractmethod
    def __len__(self) -> int:
        """Return the number of windows."""

    @abc.abstractmethod
    def _place(self, index: int) -> tuple[int, int]:
        """Return the start of a window, and the first position in the text that counts in it."""


class RandomWindows(Windows):
    """Windows with random starts, determined by seed, epoch and index; an epoch has as many tokens as the text.

    Args:
        tokens, window, ahead: see :class:`Windows`.
        seed: determines the windows.
    """

    def __init__(self, tokens: TokenFile, window: int, ahead: int, *, seed: int) -> None:
        super().__init__(tokens, window, ahead)
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        """Return the number of windows per epoch."""
        return self._targets // self._window

    def set_epoch(self, epoch: int) -> None:
        """Switch to the windows of another epoch."""
        self._epoch = epoch

    def _place(self, index: int) -> tuple[int, int]:
        generator = np.random.default_rng((self._seed, zlib.crc32(b"windows"), self._epoch, index))
        start = int(generator.integers(self._targets - self._window + 1))
        return start, start


class SequentialWindows(Windows):
    """Windows in text order, in which every target counts exactly once; the last is moved back to be full.

    Args:
        tokens, window, ahead: see :class:`Windows`.
        stride: tokens from one window to the next, which is also how many count in each window but the first; if less
            than ``window``, each counted token has at least ``window - stride`` tokens of context.
    """

    def __init__(self, tokens: TokenFile, window: int, ahead: int, *, stride: int) -> None:
        super().__init__(tokens, window, ahead)
        if not 1 <= stride <= window:
            raise ValueError(f"stride {stride} must be from 1 to window {window}, or tokens would be skipped")
        self._stride = stride

    def __len__(self) -> int:
        """Return the number of windows."""
        return 1 + -(-(self._targets - self._window) // self._stride)

    def _place(self, index: int) -> tuple[int, int]:
        start = min(index * self._stride, self._targets - self._window)
        return start, (index - 1) * self._stride + self._window if index else 0


@dataclass(frozen=True)
class TextData:
    """The three splits of a text and their tokenizer; ``train`` may have ``set_epoch``."""

    train: Windows
    val: Windows
    test: Windows
    tokenizer: Tokenizer


def load_text(config: TextDataConfig, *, seed: int, ahead: int = 1, saved_tokenizer: Path | None = None) -> TextData:
    """Load the windows of a text, tokenised once into ``root/tokens``; a single file of bytes is read directly.

    Args:
        config: settings of the text, tokens and windows.
        seed: seed of the random training windows.
        ahead: see :class:`Windows`.
        saved_tokenizer: file of a tokenizer to use, instead of training one on the training text.

    Raises:
        ConfigError: files that are missing and cannot be downloaded, or are empty, too short, or not text.
    """
    try:
        corpus, name = corpus_of(config)
        contents = {span.path: content_digest(span.path) for spans in corpus.values() for span in spans}
        tokenizer = _tokenizer(config, name, corpus["train"], contents, saved_tokenizer)
        files = {
            split: _token_file(config, f"{name}-{split}", spans, contents, tokenizer) for split, spans in corpus.items()
        }
    except (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise ConfigError(f"data: {error.filename}: {reason(error)}") from None
    _check_lengths(files, config, ahead)
    window, stride = config.window, config.eval_stride or config.window
    if config.sampling == "random":
        train: Windows = RandomWindows(files["train"], window, ahead, seed=seed)
    else:
        train = SequentialWindows(files["train"], window, ahead, stride=window)
    val, test = (SequentialWindows(files[split], window, ahead, stride=stride) for split in ("val", "test"))
    return TextData(train, val, test, tokenizer)


def corpus_of(config: TextDataConfig) -> tuple[Corpus, str]:
    """Return the text, and a name for the files derived from it.

    Raises:
        ConfigError: files that are missing and cannot be downloaded, or are empty or not text.
    """
    if config.source == "files":
        assert config.path is not None  # checked by the settings
        corpus = files_corpus(config.path, val_share=config.val_share, test_share=config.test_share)
        return corpus, config.path.resolve().stem
    if config.source == "hub":
        corpus = hub_corpus(config.hub, config.root, val_share=config.val_share, test_share=config.test_share)
        return corpus, config.hub.slug
    if config.source == "enwik8":
        return enwik8_corpus(config.root), config.source
    return wikitext_corpus(config.source, config.root), config.source


def _tokenizer(
    config: TextDataConfig, name: str, spans: list[Span], contents: Mapping[Path, str], saved: Path | None
) -> Tokenizer:
    settings = config.tokenizer
    if isinstance(settings, BytesConfig):
        return Tokenizer()
    if saved is None:
        key = _key(spans, contents, settings.model_dump_json())
        path = config.root / "tokens" / f"{name}-{settings.kind}-{key}.json"
        saved = made_once(path, lambda part: _train_tokenizer(settings, name, spans).save(part))
    return saved_tokenizer(settings, saved)


def saved_tokenizer(settings: TokenizerConfig, saved: Path) -> Tokenizer:
    """Load the tokenizer that a model was trained with; for bytes there is no file.

    Raises:
        ConfigError: no such file, or not a tokenizer; or a file although the tokens are bytes.
    """
    if isinstance(settings, BytesConfig):
        if saved.exists():
            raise ConfigError(f"data.tokenizer: {saved}: a model of bytes has no such file; remove it, or set its kind")
        return Tokenizer()
    try:
        return load_tokenizer(saved)
    except FileNotFoundError:
        raise ConfigError(f"data.tokenizer: {saved} is missing: it defines the model's tokens") from None
    except ValueError as error:
        raise ConfigError(f"data.tokenizer: {saved} is not a tokenizer of this project ({error})") from None


def _train_tokenizer(settings: BPEConfig | WordPieceConfig, name: str, spans: list[Span]) -> SubwordTokenizer:
    lines = _Lines(spans, f"training tokenizer on {name}")
    if isinstance(settings, BPEConfig):
        return train_bpe(lines, settings.vocab_size)
    return train_wordpiece(lines, settings.vocab_size, lowercase=settings.lowercase)


def _token_file(
    config: TextDataConfig, name: str, spans: list[Span], contents: Mapping[Path, str], tokenizer: Tokenizer
) -> TokenFile:
    n_bytes = sum(map(len, spans))
    key = _key(spans, contents, tokenizer.digest)
    if not isinstance(tokenizer, SubwordTokenizer) and len(spans) == 1:
        return TokenFile(spans[0].path, "uint8", spans[0].start, n_bytes, n_bytes, key)
    path = config.root / "tokens" / f"{name}-{config.tokenizer.kind}-{key}.bin"
    dtype = np.min_scalar_type(tokenizer.n_symbols - 1)
    write_once(path, lambda part: _write_tokens(part, name, spans, tokenizer, dtype), whole=_has_its_digest)
    length = (path.stat().st_size - _DIGEST_BYTES) // dtype.itemsize
    return TokenFile(path, dtype.name, _DIGEST_BYTES, length, n_bytes, key)


def _write_tokens(part: Path, name: str, spans: list[Span], tokenizer: Tokenizer, dtype: np.dtype) -> None:
    """Write the tokens, preceded by their SHA-256."""
    digest = hashlib.sha256()
    with part.open("wb") as file:
        file.write(bytes(_DIGEST_BYTES))
        for piece in _encoded(f"tokens of {name}", spans, tokenizer, dtype):
            digest.update(piece)
            file.write(piece)
        file.seek(0)
        file.write(digest.digest())


def _encoded(what: str, spans: list[Span], tokenizer: Tokenizer, dtype: np.dtype) -> Iterator[bytes]:
    if isinstance(tokenizer, SubwordTokenizer):
        for lines in _batches(_Lines(spans, what)):
            yield np.array(tokenizer.encode_lines(lines), dtype=dtype).tobytes()
        return
    with _progress(what, spans) as bar:
        for span in spans:
            for piece in span.pieces():
                yield piece
                bar.update(len(piece))


def _has_its_digest(path: Path) -> bool:
    with path.open("rb") as file:
        digest = file.read(_DIGEST_BYTES)
        return hashlib.file_digest(file, "sha256").digest() == digest


@dataclass
class _Lines:
    """The lines of a text, with a progress bar; each iteration starts from the beginning."""

    spans: list[Span]
    what: str

    def __iter__(self) -> Iterator[str]:
        with _progress(self.what, self.spans) as bar:
            for span in self.spans:
                for line in span.lines():
                    bar.update(len(line))  # characters; in most texts about as many as bytes
                    yield line


def _batches(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yield lines in batches that are large enough to be tokenised by several threads."""
    batch, size = [], 0
    for line in lines:
        batch.append(line)
        size += len(line)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _progress(what: str, spans: list[Span]) -> "tqdm[NoReturn]":
    total = sum(map(len, spans))
    return tqdm(desc=what, total=total, unit="B", unit_scale=True, delay=1, dynamic_ncols=True, leave=False)


def _key(spans: list[Span], contents: Mapping[Path, str], *others: str) -> str:
    """Return an identifier of files derived from parts of others; it changes with their content."""
    parts = [(contents[span.path], span.start, span.end) for span in spans]
    return hashlib.sha256(json.dumps([parts, others]).encode()).hexdigest()[:12]


def _check_lengths(files: Mapping[Split, TokenFile], config: TextDataConfig, ahead: int) -> None:
    lines = []
    for split, file in files.items():
        if file.length >= config.window + ahead:
            continue
        most = file.length - ahead
        raised = f" or raise data.{split}_share" if config.source in ("files", "hub") and split != "train" else ""
        advice = f"lower data.window to at most {most}{raised}" if most >= 2 else f"use a longer text{raised}"
        lines.append(
            f"data.window: {config.window} tokens{' and the next one' if ahead else ''} are more than the "
            f"{file.length} of the {_SPLIT_NAMES[split]} text; {advice}"
        )
    if lines:
        raise ConfigError(*lines)
