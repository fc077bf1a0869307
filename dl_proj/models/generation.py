"""Autoregressive models: p(x) = prod_t p(x_t | x_1 ... x_(t-1)), or the same given a label."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dl_proj.models.sampling import Choice, most_probable
from my_transformers import EncoderStack, ReversibleStack
from my_transformers.positional_encoding import PositionalEncoding


class AutoregressiveModel(nn.Module):
    """Embedding, positions, a causal stack and a linear map to logits.

    With labels, the sequence starts with the label's vector alone, in the place of the token that the first one lacks,
    and the vector is added to every later token too: a mechanism that sees few tokens still knows the label.

    Args:
        stack: of causal layers.
        positions: positional encoding; its max_len is the model's.
        dim: of the activations.
        vocab_size: symbols.
        n_labels: labels that condition the model; 0 for none.
        dropout: on the embedded input.
    """

    def __init__(
        self,
        stack: EncoderStack | ReversibleStack,
        positions: PositionalEncoding,
        *,
        dim: int,
        vocab_size: int,
        n_labels: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, dim)
        nn.init.normal_(self.embedding.weight, std=0.02)  # torch's 1 would drown the positions, which start at 0.02
        self.label_embedding = nn.Embedding(n_labels, dim) if n_labels else None
        if n_labels:
            nn.init.normal_(self.label_embedding.weight, std=0.02)
        self.positions = positions
        self.dropout = nn.Dropout(dropout)
        self.stack = stack
        self.to_logits = nn.Linear(dim, vocab_size)

    def forward(self, tokens: Tensor, *, labels: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Logits of each next token.

        Args:
            tokens: (b, n) int64.
            labels: (b,) int64, for a model that has labels.
            mask: (b, n), True where a token is real.

        Returns:
            (b, n, vocab), for the tokens after the given ones; with labels (b, n + 1, vocab), from the first token on.

        Raises:
            ValueError: labels for a model that has none, or none for one that has.
        """
        x = self.embedding(tokens)
        label = self._embed_labels(labels)
        if label is not None:
            x = torch.cat((label, x + label), dim=1)
            mask = None if mask is None else F.pad(mask, (1, 0), value=True)
        return self.to_logits(self.stack(self.dropout(self.positions(x)), mask=mask))

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor,
        length: int,
        *,
        labels: Tensor | None = None,
        choose: Choice = most_probable,
        max_len: int | None = None,
        progress: Callable[[range], Iterable[int]] = iter,
    ) -> Tensor:
        """Continue sequences token by token, with a cache.

        Args:
            prompt: (b, n) int64; n may be 0 for a model with labels.
            length: tokens to add.
            labels: (b,) int64, for a model that has labels.
            choose: (logits (b, vocab), number of the new token) -> tokens (b,); default the most probable.
            max_len: inputs of the sequences that the model was trained on, from which LSH derives its number of
                buckets; default the positional encoding's.
            progress: wraps the steps, for a progress bar.

        Returns:
            (b, length) int64, without the prompt.

        Raises:
            ValueError: the sequence would outgrow max_len; nothing to start from; labels as in :meth:`forward`.
        """
        max_len = max_len or self.positions.max_len
        label = self._embed_labels(labels)
        given = prompt.shape[1]
        start = 0 if label is None else 1  # inputs before the first token
        n_inputs = start + given + length - 1
        if n_inputs > max_len:
            raise ValueError(f"{given} + {length} tokens are more than the model's {max_len - start} + 1")
        if start + given == 0:
            raise ValueError("an empty prompt: a model without labels needs one token to start from")
        caches = self.stack.new_cache(prompt.shape[0], max_len)
        tokens = list(prompt.unbind(1))
        for t in progress(range(n_inputs)):
            x = label if t < start else self.embedding(tokens[t - start].unsqueeze(1))
            x = x + label if label is not None and t >= start else x
            x = self.stack.step(self.dropout(self.positions(x, first=t)), caches)
            if t - start + 1 == len(tokens):
                tokens.append(choose(self.to_logits(x[:, -1]), len(tokens) - given))
        return torch.stack(tokens[given:], dim=1) if length else prompt[:, given:]

    def _embed_labels(self, labels: Tensor | None) -> Tensor | None:
        """(b,) -> (b, 1, dim)."""
        if (labels is None) != (self.label_embedding is None):
            raise ValueError("labels are given if and only if the model was made with n_labels")
        return None if labels is None else self.label_embedding(labels).unsqueeze(1)
