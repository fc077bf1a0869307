"""Masking of tokens to predict, as in BERT (Devlin et al. 2019, section 3.1, task 1)."""

import zlib

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dl_proj.experiments.language.data import Windows
from dl_proj.text.tokenizers import Tokenizer

_MASKED = 0.8  # fractions of the chosen tokens; the remaining ones are kept
_RANDOM = 0.1


class MaskedWindows(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Windows in which some tokens are chosen; of these, 80 % are masked, 10 % replaced at random, 10 % kept.

    An item is ``(inputs, targets, chosen)``: inputs and targets (window,) int64, chosen (window,) bool, True where the
    model has to predict the target. It depends only on seed, epoch and index, so it is the same in each evaluation.
    Tokens that do not count (where evaluation windows overlap) are masked like others, but never chosen; at least one
    token is chosen.

    Args:
        windows: windows with ``ahead=0``.
        tokenizer: the tokenizer of their tokens.
        seed: determines the choice.
        share: fraction of the tokens that are chosen.
        whole_word: choose whole words until ``share`` is reached.

    Raises:
        ValueError: ``share`` is not in (0, 1], or the windows have tokens ahead.
    """

    def __init__(
        self, windows: Windows, tokenizer: Tokenizer, seed: int, share: float = 0.15, whole_word: bool = False
    ) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share {share} must be more than 0 and at most 1")
        tokens, counted, _ = windows[0]
        if len(tokens) != len(counted):
            raise ValueError("masked tokens are predicted at their own position: windows must have ahead=0")
        self._windows = windows
        self.digest = windows.digest
        self._mask_token = tokenizer.mask_token
        self._ordinary = tokenizer.ordinary
        self._starts_word = tokenizer.starts_word.numpy() if whole_word else None
        self._seed = seed
        self._share = share
        self._epoch = 0

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self._windows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return an item, see the class."""
        targets, counted, _ = self._windows[index]
        generator = np.random.default_rng((self._seed, zlib.crc32(b"masking"), self._epoch, index))
        drawn = torch.from_numpy(self._drawn(targets.numpy(), generator))
        if not (drawn & counted).any():
            drawn[int(generator.choice(counted.nonzero()[:, 0].numpy()))] = True
        fate = torch.from_numpy(generator.random(len(targets)))
        random = torch.from_numpy(generator.integers(self._ordinary.start, self._ordinary.stop, len(targets)))
        inputs = torch.where(fate < _MASKED, self._mask_token, torch.where(fate < _MASKED + _RANDOM, random, targets))
        return torch.where(drawn, inputs, targets), targets, drawn & counted

    def set_epoch(self, epoch: int) -> None:
        """Switch to the choices, and the windows, of another epoch."""
        self._epoch = epoch
        if hasattr(self._windows, "set_epoch"):
            self._windows.set_epoch(epoch)

    def _drawn(self, tokens: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Choose ``share`` of the tokens, at least one: (window,) bool; with whole words, possibly a few more."""
        number = max(1, round(self._share * len(tokens)))
        if self._starts_word is None:
            return generator.permutation(len(tokens)) < number
        word = np.cumsum(self._starts_word[tokens])  # the index of each token's word
        word -= word[0]  # a window may begin inside a word
        sizes = np.bincount(word)
        order = generator.permutation(len(sizes))
        before = np.cumsum(sizes[order]) - sizes[order]
        return np.isin(word, order[before < number])
