"""Encoder-decoder models: p(target | source) = prod_t p(y_t | y_1 ... y_(t-1), source)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from my_transformers import DecoderStack, EncoderStack, ReversibleDecoderStack, ReversibleStack
from my_transformers.dropout import Dropout
from my_transformers.layers import DecoderCache
from my_transformers.positional_encoding import PositionalEncoding


@dataclass
class TranslationCache:
    """The state of decoding: each layer's cache, and the number of target tokens processed."""

    layers: list[DecoderCache]
    length: int

    def select_rows(self, rows: Tensor, sources: Tensor | None = None) -> None:
        """Reorder the targets: new row i is a copy of old row rows[i]; rows is int64 (any,).

        The targets of a source are adjacent, equally many per source. ``sources`` are the indices of the remaining
        sources, int64 (any,), in order; None: all.
        """
        for layer in self.layers:
            layer.select_rows(rows, sources)


class EncoderDecoderModel(nn.Module):
    """Embeddings and positions of both sides, an encoder, a decoder and a linear map to logits (Vaswani et al. 2017).

    Args:
        encoder: bidirectional layers.
        decoder: causal layers that attend to the encoder's output.
        source_positions: positional encoding; its max_len bounds the source.
        target_positions: positional encoding; its max_len bounds the target.
        dim: width of the activations.
        source_vocab_size: number of source symbols.
        target_vocab_size: number of target symbols.
        tied: whether the same matrix embeds both sides' tokens and maps to logits (section 3.4). Embeddings have the
            initial scale of the positions, 0.02, so they are not multiplied by sqrt(dim).
        dropout: dropout on the embedded inputs.

    Raises:
        ValueError: tied, but the vocabularies differ in size.
    """

    def __init__(
        self,
        encoder: EncoderStack | ReversibleStack,
        decoder: DecoderStack | ReversibleDecoderStack,
        source_positions: PositionalEncoding,
        target_positions: PositionalEncoding,
        *,
        dim: int,
        source_vocab_size: int,
        target_vocab_size: int,
        tied: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if tied and source_vocab_size != target_vocab_size:
            raise ValueError(
                f"tied embeddings need one vocabulary, but the sides have {source_vocab_size} and {target_vocab_size} "
                "symbols; use tied=False"
            )
        self.source_embedding = _embedding(source_vocab_size, dim)
        self.target_embedding = self.source_embedding if tied else _embedding(target_vocab_size, dim)
        self.source_positions = source_positions
        self.target_positions = target_positions
        self.dropout = Dropout(dropout)
        self.encoder = encoder
        self.decoder = decoder
        self.to_logits = nn.Linear(dim, target_vocab_size)
        if tied:
            self.to_logits.weight = self.source_embedding.weight

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        *,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the logits of the token after each token of the target.

        Args:
            source: (b, m) int64.
            target: (b, n) int64, starting with a start symbol.
            source_mask: (b, m), True where a token is real.
            target_mask: (b, n), True where a token is real.

        Returns:
            (b, n, target vocab).
        """
        context = self.encode(source, source_mask)
        x = self.dropout(self.target_positions(self.target_embedding(target)))
        return self.to_logits(self.decoder(x, context, mask=target_mask, context_mask=source_mask))

    def encode(self, source: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """Encode (b, m) int64 to (b, m, dim), the context of the decoder."""
        return self.encoder(self.dropout(self.source_positions(self.source_embedding(source))), mask=source_mask)

    @torch.no_grad()
    def new_cache(
        self, context: Tensor, source_mask: Tensor | None = None, *, max_len: int | None = None, targets: int = 1
    ) -> TranslationCache:
        """Create a cache with which :meth:`step` decodes several targets per context.

        Args:
            context: (b, m, dim), from :meth:`encode`.
            source_mask: (b, m), True where a token of the source is real.
            max_len: maximum tokens of a target; by default that of the positional encoding.
            targets: targets per context, in adjacent rows.
        """
        max_len = max_len or self.target_positions.max_len
        return TranslationCache(self.decoder.new_cache(targets * len(context), max_len, context, source_mask), 0)

    @torch.no_grad()
    def step(self, tokens: Tensor, cache: TranslationCache) -> Tensor:
        """Process the next token of each of b targets, (b,) int64; returns the logits of the following one, (b, vocab).

        Updates the cache. In eval mode, the logits equal those of :meth:`forward`.

        Raises:
            ValueError: more tokens than the cache was created for.
        """
        x = self.target_positions(self.target_embedding(tokens.unsqueeze(1)), first=cache.length)
        x = self.decoder.step(self.dropout(x), cache.layers)
        cache.length += 1
        return self.to_logits(x.squeeze(1))


def _embedding(vocab_size: int, dim: int) -> nn.Embedding:
    embedding = nn.Embedding(vocab_size, dim)
    nn.init.normal_(embedding.weight, std=0.02)  # torch's 1 would drown the positions, which start at 0.02
    return embedding
