"""Windows of tokens, read from files as they are asked for: a text may be larger than memory."""

import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from dl_proj.configs.load import ConfigError
from dl_proj.configs.text import TextDataConfig
from dl_proj.data.text_sets import Span, files_corpus
from dl_proj.data.tokenizers import Tokenizer
from my_custom_ai.utils.files import whole_file

_SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}

Window = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class TokenFile:
    """Tokens in a file, from byte ``offset`` on: as many as ``length``, made of ``n_bytes`` bytes of text."""

    path: Path
    dtype: str
    offset: int
    length: int
    n_bytes: int

    def read(self, start: int, stop: int) -> Tensor:
        """Tokens ``start`` to ``stop`` (exclusive), int64.

        The file is mapped for this moment only: a mapping that stays would count every page ever read as this
        process's memory, and would be copied to a loader's processes as a whole.
        """
        dtype = np.dtype(self.dtype)
        at = self.offset + start * dtype.itemsize
        tokens = np.memmap(self.path, dtype=dtype, mode="r", offset=at, shape=(stop - start,))
        return torch.from_numpy(tokens.astype(np.int64))


class Windows(Dataset[Window]):
    """Sequences of ``window`` tokens, each with the ``ahead`` tokens after it.

    An item is ``(tokens, counted, bytes_per_token)``: tokens (window + ahead,) int64; counted (window,) bool, True
    where the target (the token ``ahead`` places on) counts in loss and metrics; bytes of text a token, () float32, a
    mean over the whole text.

    Args:
        tokens: the text.
        window: tokens a sequence.
        ahead: 1 to predict the next token, 0 to predict masked ones.

    Raises:
        ValueError: the text is shorter than ``window + ahead``.
    """

    def __init__(self, tokens: TokenFile, window: int, ahead: int) -> None:
        if tokens.length < window + ahead:
            raise ValueError(f"{tokens.length} tokens are less than a window of {window} and {ahead} ahead")
        self._tokens = tokens
        self._window = window
        self._ahead = ahead
        self._targets = tokens.length - ahead

    def __getitem__(self, index: int) -> Window:
        """See the class."""
        if not 0 <= index < len(self):
            raise IndexError(f"{index} is not in 0 to {len(self) - 1}")
        start, first_counted = self._place(index)
        tokens = self._tokens.read(start, start + self._window + self._ahead)
        counted = torch.arange(start, start + self._window) >= first_counted
        return tokens, counted, torch.tensor(self._tokens.n_bytes / self._tokens.length)

    def _place(self, index: int) -> tuple[int, int]:
        """Where a window starts, and the first position in the text that counts in it."""
        raise NotImplementedError


class RandomWindows(Windows):
    """Windows that start anywhere, drawn from (seed, epoch, index) alone; an epoch has as many tokens as the text.

    Args:
        tokens, window, ahead: see :class:`Windows`.
        seed: other seeds give other windows.
    """

    def __init__(self, tokens: TokenFile, window: int, ahead: int, *, seed: int) -> None:
        super().__init__(tokens, window, ahead)
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        """Windows an epoch."""
        return self._targets // self._window

    def set_epoch(self, epoch: int) -> None:
        """Give the windows of another epoch."""
        self._epoch = epoch

    def _place(self, index: int) -> tuple[int, int]:
        generator = np.random.default_rng((self._seed, zlib.crc32(b"windows"), self._epoch, index))
        start = int(generator.integers(self._targets - self._window + 1))
        return start, start


class SequentialWindows(Windows):
    """Windows in the text's order in which every target counts exactly once; the last one is moved back to be full.

    Args:
        tokens, window, ahead: see :class:`Windows`.
        stride: tokens from one window to the next, so many count in each but the first; less than ``window`` gives
            each at least ``window - stride`` tokens of context.
    """

    def __init__(self, tokens: TokenFile, window: int, ahead: int, *, stride: int) -> None:
        super().__init__(tokens, window, ahead)
        if not 1 <= stride <= window:
            raise ValueError(f"stride {stride} must be 1 to window {window}, or tokens would be left out")
        self._stride = stride

    def __len__(self) -> int:
        """Windows."""
        return 1 + -(-(self._targets - self._window) // self._stride)

    def _place(self, index: int) -> tuple[int, int]:
        start = min(index * self._stride, self._targets - self._window)
        return start, (index - 1) * self._stride + self._window if index else 0


@dataclass(frozen=True)
class TextData:
    """The three parts of a text and their tokens' meaning; ``train`` may have ``set_epoch``."""

    train: Windows
    val: Windows
    test: Windows
    tokenizer: Tokenizer


def load_text(config: TextDataConfig, *, seed: int, ahead: int = 1) -> TextData:
    """The windows of a text, tokenised once into ``root/tokens``.

    Args:
        config: which text, tokens and windows.
        seed: of the random training windows.
        ahead: see :class:`Windows`.

    Raises:
        ConfigError: files that are not there, are empty or too short.
    """
    corpus = files_corpus(config.path, val_share=config.val_share, test_share=config.test_share)
    tokenizer = Tokenizer()
    name = config.path.resolve().stem
    files = {split: _token_file(config.root / "tokens", f"{name}-{split}", spans) for split, spans in corpus.items()}
    _check_lengths(files, config, ahead)
    window, stride = config.window, config.eval_stride or config.window
    if config.sampling == "random":
        train: Windows = RandomWindows(files["train"], window, ahead, seed=seed)
    else:
        train = SequentialWindows(files["train"], window, ahead, stride=window)
    val, test = (SequentialWindows(files[split], window, ahead, stride=stride) for split in ("val", "test"))
    return TextData(train, val, test, tokenizer)


def _check_lengths(files: dict[str, TokenFile], config: TextDataConfig, ahead: int) -> None:
    needed = config.window + ahead
    lines = [
        f"data.window: a window of {config.window} tokens{' and the one after it' * ahead} does not fit into the "
        f"{_SPLIT_NAMES[split]} text, which has {file.length}; lower window to {file.length - ahead} at most"
        + (f" or raise data.{split}_share" if config.source == "files" and split != "train" else "")
        for split, file in files.items()
        if file.length < needed
    ]
    if lines:
        raise ConfigError(*lines)


def _token_file(folder: Path, name: str, spans: list[Span]) -> TokenFile:
    n_bytes = sum(map(len, spans))
    if len(spans) == 1:  # a file is its own tokens
        return TokenFile(spans[0].path, "uint8", spans[0].start, n_bytes, n_bytes)
    path = made_once(folder / f"{name}-{_key(spans)}.bin", lambda part: _write_tokens(part, spans, name))
    return TokenFile(path, "uint8", 0, n_bytes, n_bytes)


def _write_tokens(part: Path, spans: list[Span], name: str) -> None:
    total = sum(map(len, spans))
    with (
        part.open("wb") as file,
        tqdm(desc=name, total=total, unit="B", unit_scale=True, delay=1, dynamic_ncols=True, leave=False) as bar,
    ):
        for span in spans:
            for piece in span.pieces():
                file.write(piece)
                bar.update(len(piece))


def _key(spans: list[Span], *others: str) -> str:
    """A name for what is made of parts of files: another one as soon as a file changes."""
    parts = [(str(span.path.resolve()), span.path.stat().st_mtime_ns, span.start, span.end) for span in spans]
    return hashlib.sha256(json.dumps([parts, others]).encode()).hexdigest()[:12]


def made_once(path: Path, write: Callable[[Path], None]) -> Path:
    """``path``, written by ``write`` if it is not there: whole or not at all, by one process while others wait."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                with whole_file(path) as part:
                    write(part)
    return path
