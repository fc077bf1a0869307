"""The encoder layer and the stack of them. With a causal mechanism they are a decoder-only model's."""

from typing import Literal

from torch import Tensor, nn

from my_transformers.sublayers import FeedForward, MultiHeadAttention


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each with a residual connection and layer normalisation.

    ``norm="pre"`` is x + f(norm(x)), ``norm="post"`` is norm(x + f(x)) (Vaswani et al. 2017, section 3.1).

    Args:
        attention: from (b, n, dim) to the same.
        feed_forward: likewise.
        dim: of the activations.
        norm: "pre" or "post".
        dropout: on each sublayer's output.
    """

    def __init__(
        self,
        attention: MultiHeadAttention,
        feed_forward: FeedForward,
        *,
        dim: int,
        norm: Literal["pre", "post"] = "pre",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if norm not in ("pre", "post"):
            raise ValueError(f"norm is {norm!r}, must be 'pre' or 'post'")
        self.attention = attention
        self.feed_forward = feed_forward
        self.norm_attention = nn.LayerNorm(dim)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.norm = norm
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """X (b, n, dim), mask (b, n) True where a token is real -> (b, n, dim)."""
        if self.norm == "pre":
            x = x + self.attend(x, mask=mask)
            return x + self.transform(x)
        x = self.norm_attention(x + self.dropout(self.attention(x, mask=mask)))
        return self.norm_feed_forward(x + self.dropout(self.feed_forward(x)))

    def attend(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The attention branch of a pre-norm layer: what is added to the residual."""
        return self.dropout(self.attention(self.norm_attention(x), mask=mask))

    def transform(self, x: Tensor) -> Tensor:
        """The feed-forward branch of a pre-norm layer."""
        return self.dropout(self.feed_forward(self.norm_feed_forward(x)))

    def new_cache(self, batch: int, max_len: int) -> object:
        """The attention's empty cache for decoding up to ``max_len`` tokens."""
        return self.attention.new_cache(batch, max_len)

    def step(self, x: Tensor, cache: object) -> Tensor:
        """One more token x (b, 1, dim) -> (b, 1, dim); the cache takes it in."""
        if self.norm == "pre":
            x = x + self.attend_step(x, cache)
            return x + self.transform(x)
        x = self.norm_attention(x + self.dropout(self.attention.step(x, cache)))
        return self.norm_feed_forward(x + self.dropout(self.feed_forward(x)))

    def attend_step(self, x: Tensor, cache: object) -> Tensor:
        """:meth:`attend` for one more token."""
        return self.dropout(self.attention.step(self.norm_attention(x), cache))


class EncoderStack(nn.Module):
    """Layers one after the other; a pre-norm stack ends with the normalisation that its last residual lacks.

    Args:
        layers: one or more, all with the same ``norm``.
        dim: of the activations.
    """

    def __init__(self, layers: list[EncoderLayer], *, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.final_norm = nn.LayerNorm(dim) if layers[-1].norm == "pre" else nn.Identity()

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """X (b, n, dim), mask (b, n) True where a token is real -> (b, n, dim)."""
        for layer in self.layers:
            x = layer(x, mask=mask)
        return self.final_norm(x)

    def new_cache(self, batch: int, max_len: int) -> list[object]:
        """A cache for each layer."""
        return [layer.new_cache(batch, max_len) for layer in self.layers]

    def step(self, x: Tensor, caches: list[object]) -> Tensor:
        """One more token x (b, 1, dim) -> (b, 1, dim); the caches take it in."""
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer.step(x, cache)
        return self.final_norm(x)
