"""Models of token sequences, which return logits at each position."""

from torch import Tensor, nn

from my_transformers import EncoderStack, ReversibleStack
from my_transformers.dropout import Dropout
from my_transformers.positional_encoding import PositionalEncoding


class TokenModel(nn.Module):
    """Embedding, positions, a stack and a linear map to logits; the base class of models of token sequences.

    Args:
        stack: the layers.
        positions: positional encoding; its max_len is the model's.
        dim: width of the activations.
        vocab_size: number of symbols.
        tied: whether the same matrix embeds tokens and maps to logits (Press and Wolf 2017).
        dropout: dropout on the embedded input.
    """

    def __init__(
        self,
        stack: EncoderStack | ReversibleStack,
        positions: PositionalEncoding,
        *,
        dim: int,
        vocab_size: int,
        tied: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, dim)
        nn.init.normal_(self.embedding.weight, std=0.02)  # torch's 1 would drown the positions, which start at 0.02
        self.positions = positions
        self.dropout = Dropout(dropout)
        self.stack = stack
        self.to_logits = nn.Linear(stack.out_dim, vocab_size)
        if tied:
            self.to_logits.weight = self.embedding.weight

    def logits(self, x: Tensor, mask: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        """Map embedded tokens (b, n, dim), without positions, to (b, n, vocab); with ``at``, to (positions, vocab)."""
        x = self.stack(self.dropout(self.positions(x)), mask=mask)
        return self.to_logits(x if at is None else x[at])


class LanguageModel(TokenModel):
    """A language model without labels or decoding.

    With a bidirectional stack, it is a masked language model (Devlin et al. 2019): the logits at a position predict the
    token there. With a causal stack, they predict the next token.
    """

    def forward(self, tokens: Tensor, *, mask: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        """Return logits at all positions, or only at the positions ``at``.

        Args:
            tokens: (b, n) int64.
            mask: (b, n), True where a token is real.
            at: (b, n), True where logits are wanted; saves the map to the vocabulary elsewhere.

        Returns:
            (b, n, vocab), or with ``at`` (positions, vocab), row by row.
        """
        return self.logits(self.embedding(tokens), mask, at)
