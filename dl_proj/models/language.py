"""Models of token sequences: logits at each place, from what the stack lets it see."""

from torch import Tensor, nn

from my_transformers import EncoderStack, ReversibleStack
from my_transformers.positional_encoding import PositionalEncoding


class TokenModel(nn.Module):
    """Embedding, positions, a stack and a linear map to logits: what models of token sequences share.

    Args:
        stack: of layers.
        positions: positional encoding; its max_len is the model's.
        dim: of the activations.
        vocab_size: symbols.
        tied: one matrix embeds tokens and maps to logits (Press and Wolf 2017).
        dropout: on the embedded input.
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
        self.dropout = nn.Dropout(dropout)
        self.stack = stack
        self.to_logits = nn.Linear(stack.out_dim, vocab_size)
        if tied:
            self.to_logits.weight = self.embedding.weight

    def logits(self, x: Tensor, mask: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        """Embedded tokens (b, n, dim), without positions -> (b, n, vocab), or (places, vocab) where ``at`` is True."""
        seen = self.stack(self.dropout(self.positions(x)), mask=mask)
        return self.to_logits(seen if at is None else seen[at])


class LanguageModel(TokenModel):
    """Logits at each place, from the tokens that the stack lets it see.

    With a stack that looks both ways it is a masked language model (Devlin et al. 2019): the logits at a place are of
    the token there. With a causal stack they are of the next token.
    """

    def forward(self, tokens: Tensor, *, mask: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        """Logits at each place, or at some.

        Args:
            tokens: (b, n) int64.
            mask: (b, n), True where a token is real.
            at: (b, n), True where logits are wanted; a masked model is asked at the chosen places alone, and spares the
                map to the vocabulary at the others.

        Returns:
            (b, n, vocab), or (places, vocab) at those places, row by row.
        """
        return self.logits(self.embedding(tokens), mask, at)
