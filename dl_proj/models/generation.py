"""Autoregressive models: p(x) = prod_t p(x_t | x_1 ... x_(t-1)), or the same given a label."""

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dl_proj.models.language import TokenModel
from dl_proj.models.sampling import Choice, most_probable
from my_transformers import EncoderStack, ReversibleStack
from my_transformers.positional_encoding import PositionalEncoding


class AutoregressiveModel(TokenModel):
    """A causal model of token sequences, optionally conditional on a label, that can continue them.

    With labels, the label's vector is the first input, from which the first token is predicted. It is also added to
    every token, so that a mechanism that attends to few tokens still knows the label.

    Args:
        stack: causal layers.
        positions: positional encoding; its max_len is the model's.
        dim: width of the activations.
        vocab_size: number of symbols.
        n_labels: number of labels; 0: unconditional.
        tied: whether the same matrix embeds tokens and maps to logits.
        dropout: dropout on the embedded input.
    """

    def __init__(
        self,
        stack: EncoderStack | ReversibleStack,
        positions: PositionalEncoding,
        *,
        dim: int,
        vocab_size: int,
        n_labels: int = 0,
        tied: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(stack, positions, dim=dim, vocab_size=vocab_size, tied=tied, dropout=dropout)
        self.label_embedding = nn.Embedding(n_labels, dim) if n_labels else None
        if self.label_embedding is not None:
            nn.init.normal_(self.label_embedding.weight, std=0.02)

    def forward(
        self,
        tokens: Tensor,
        *,
        labels: Tensor | None = None,
        mask: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Return the logits of each next token, or only at the positions ``at``.

        Args:
            tokens: (b, n) int64.
            labels: (b,) int64, for a model with labels.
            mask: (b, n), True where a token is real.
            at: (b, n), with labels (b, n + 1), True where logits are wanted; saves the map to the vocabulary elsewhere.

        Returns:
            (b, n, vocab), for the token after each given one; with labels (b, n + 1, vocab), from the first token on.
            With ``at``: (positions, vocab), row by row.

        Raises:
            ValueError: labels for a model without labels, or no labels for a model with them.
        """
        x = self.embedding(tokens)
        label = self._embed_labels(labels)
        if label is not None:
            x = torch.cat((label, x + label), dim=1)
            mask = None if mask is None else F.pad(mask, (1, 0), value=True)
        return self.logits(x, mask, at)

    def logits_in_steps(self, tokens: Tensor) -> Tensor:
        """Compute :meth:`forward` token by token with caches; for a model without labels.

        Args:
            tokens: (b, n) int64.

        Returns:
            (b, n, vocab).
        """
        caches = self.stack.new_cache(*tokens.shape)
        x = self.embedding(tokens)
        steps = [
            self.stack.step(self.dropout(self.positions(one, first=t)), caches)
            for t, one in enumerate(x.split(1, dim=1))
        ]
        return self.to_logits(torch.cat(steps, dim=1))

    def state_size(self, length: int, dtype: torch.dtype | None = None) -> int:
        """Return the bytes of state per sequence when decoding up to ``length`` tokens, see EncoderStack.state_size."""
        return self.stack.state_size(length, dtype)

    def generate(
        self,
        prompt: Tensor,
        length: int,
        *,
        labels: Tensor | None = None,
        choose: Choice = most_probable,
        progress: Callable[[range], Iterable[int]] = iter,
    ) -> Tensor:
        """Return the tokens of :meth:`stream` as one tensor (b, length) int64."""
        stream = self.stream(prompt, length, labels=labels, choose=choose, progress=progress)
        new = list(stream)
        return torch.stack(new, dim=1) if new else prompt[:, :0]

    @torch.no_grad()
    def stream(
        self,
        prompt: Tensor,
        length: int,
        *,
        labels: Tensor | None = None,
        choose: Choice = most_probable,
        progress: Callable[[range], Iterable[int]] = iter,
    ) -> Iterator[Tensor]:
        """Continue sequences token by token, with a cache; each token is yielded as soon as it is chosen.

        The prompt is processed in one step.

        Args:
            prompt: (b, n) int64; n may be 0 for a model with labels.
            length: tokens to generate.
            labels: (b,) int64, for a model with labels.
            choose: (logits (b, vocab), index of the new token) -> tokens (b,); by default the most probable.
            progress: wraps the iteration over new tokens, for a progress bar.

        Yields:
            (b,) int64, ``length`` times, without the prompt.

        Raises:
            ValueError: the sequence would exceed max_len; an empty prompt without labels; labels as in :meth:`forward`.
        """
        label = self._embed_labels(labels)
        given, start = prompt.shape[1], 0 if label is None else 1  # start: inputs before the first token
        n_inputs, max_len = start + given + length - 1, self.positions.max_len
        if n_inputs > max_len:
            raise ValueError(f"{given} + {length} tokens exceed the model's {max_len - start} + 1")
        if start + given == 0:
            raise ValueError("the prompt is empty, must have at least one token for a model without labels")
        yield from self._steps(prompt, progress(range(length)), n_inputs, label, choose, self.positions)

    @torch.no_grad()
    def stream_on(self, prompt: Tensor, length: int, *, choose: Choice = most_probable) -> Iterator[Tensor]:
        """Continue sequences as :meth:`stream`, but also beyond max_len; for a model without labels.

        If the model :attr:`runs_on`, it simply continues, and the last token still depends on the first. Otherwise the
        window slides: whenever it has max_len tokens, the last :attr:`kept` of them start a new window.

        Args:
            prompt: (b, n) int64; if the window slides, only the last max_len tokens are used.
            length: tokens to generate.
            choose: see :meth:`stream`.

        Yields:
            (b,) int64, ``length`` times, without the prompt.

        Raises:
            ValueError: an empty prompt, or a model with labels.
        """
        max_len, n_inputs = self.positions.max_len, prompt.shape[1] + length - 1
        if prompt.shape[1] == 0 or n_inputs <= max_len:
            yield from self.stream(prompt, length, choose=choose)
        elif self.runs_on:
            yield from self._steps(prompt, range(length), n_inputs, self._embed_labels(None), choose, _no_positions)
        else:
            yield from self._slide(prompt[:, -max_len:], length, choose)

    @property
    def runs_on(self) -> bool:
        """Whether it can decode beyond max_len: it adds no positions, and no cache grows with the length.

        Raises:
            ValueError: a mechanism cannot decode step by step.
        """
        lengths = (self.positions.max_len, 2 * self.positions.max_len)
        sizes = {sum(cache.size for cache in self.stack.new_cache(1, length)) for length in lengths}
        return self.positions.table() is None and len(sizes) == 1

    @property
    def kept(self) -> int:
        """Tokens kept when the window slides: half of it, so that each token is processed about twice."""
        return max(1, self.positions.max_len // 2)

    def _slide(self, window: Tensor, length: int, choose: Choice) -> Iterator[Tensor]:
        done = 0
        while done < length:
            n_new = min(length - done, self.positions.max_len + 1 - window.shape[1])
            for token in self.stream(window, n_new, choose=_from_number(done, choose)):
                window = torch.cat((window, token.unsqueeze(1)), dim=1)
                yield token
            done += n_new
            window = window[:, -self.kept :]

    def _steps(
        self,
        prompt: Tensor,
        numbers: Iterable[int],
        n_inputs: int,
        label: Tensor | None,
        choose: Choice,
        positions: Callable[..., Tensor],
    ) -> Iterator[Tensor]:
        caches = self.stack.new_cache(prompt.shape[0], n_inputs)
        x, first = self.embedding(prompt), 0
        if label is not None:
            x = torch.cat((label, x + label), dim=1)
        for number in numbers:
            seen = self.stack.step(self.dropout(positions(x, first=first)), caches)
            token = choose(self.to_logits(seen[:, -1]), number)
            yield token
            first += x.shape[1]
            x = self.embedding(token.unsqueeze(1))
            x = x if label is None else x + label

    def _embed_labels(self, labels: Tensor | None) -> Tensor | None:
        """(b,) -> (b, 1, dim)."""
        if labels is None and self.label_embedding is None:
            return None
        if labels is None or self.label_embedding is None:
            raise ValueError("labels must be given if and only if the model has n_labels")
        return self.label_embedding(labels).unsqueeze(1)


def _no_positions(x: Tensor, *, first: int) -> Tensor:
    return x


def _from_number(first: int, choose: Choice) -> Choice:
    """Shift the token indices passed to ``choose`` by ``first``."""
    return lambda logits, number: choose(logits, first + number)
