"""Autoregressive models: p(x) = prod_t p(x_t | x_1 ... x_(t-1))."""

import torch
from torch import Tensor, nn

from my_transformers import EncoderStack, ReversibleStack
from my_transformers.positional_encoding import PositionalEncoding


class AutoregressiveModel(nn.Module):
    """Embedding, positions, a causal stack and a linear map to logits.

    Args:
        stack: of causal layers.
        positions: positional encoding; its max_len is the model's.
        dim: of the activations.
        vocab_size: symbols.
        dropout: on the embedded input.
    """

    def __init__(
        self,
        stack: EncoderStack | ReversibleStack,
        positions: PositionalEncoding,
        *,
        dim: int,
        vocab_size: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, dim)
        nn.init.normal_(self.embedding.weight, std=0.02)  # torch's 1 would drown the positions, which start at 0.02
        self.positions = positions
        self.dropout = nn.Dropout(dropout)
        self.stack = stack
        self.to_logits = nn.Linear(dim, vocab_size)

    def forward(self, tokens: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Tokens (b, n) int64, mask (b, n) True where a token is real -> logits of the next token (b, n, vocab)."""
        x = self.dropout(self.positions(self.embedding(tokens)))
        return self.to_logits(self.stack(x, mask=mask))

    @torch.no_grad()
    def greedy_continuation(self, prompt: Tensor, length: int, *, max_len: int | None = None) -> Tensor:
        """The most probable next token, again and again, with a cache: prompt (b, n) -> (b, length).

        Args:
            prompt: (b, n), n at least 1.
            length: tokens to add.
            max_len: tokens of the sequences that the model was trained on, from which LSH derives its number of
                buckets; default the positional encoding's.

        Raises:
            ValueError: the sequence would outgrow max_len.
        """
        max_len = max_len or self.positions.max_len
        if prompt.shape[1] + length - 1 > max_len:
            raise ValueError(f"{prompt.shape[1]} + {length} tokens are more than the model's {max_len} + 1")
        caches = self.stack.new_cache(prompt.shape[0], max_len)
        tokens = list(prompt.unbind(1))
        for t in range(prompt.shape[1] + length - 1):
            x = self.positions(self.embedding(tokens[t].unsqueeze(1)), first=t)
            logits = self.to_logits(self.stack.step(self.dropout(x), caches))
            if t + 1 == len(tokens):
                tokens.append(logits[:, -1].argmax(-1))
        return torch.stack(tokens[prompt.shape[1] :], dim=1)
