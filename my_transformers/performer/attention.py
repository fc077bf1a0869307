"""Performer: attention by random features, linear in the length (Choromanski et al. 2021, FAVOR+)."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from my_transformers.cache import Cache
from my_transformers.full import check_causal, check_dropout
from my_transformers.performer.bidirectional import bidirectional_kernel_attention, masses_and_means, mixture_of_means
from my_transformers.performer.causal import PrefixSum, causal_kernel_attention, divide_by_weights
from my_transformers.performer.features import draw_projection, log_features
from my_transformers.performer.recompute import LogFeatures
from my_transformers.performer.settings import KERNELS, Kernel
from my_transformers.replay import decide

_EPSILON = 1e-3  # of the generalised kernels, as in the paper's code


class PerformerAttention(nn.Module):
    """softmax(q k^T / sqrt(d)) v estimated with m random features, or another kernel's attention, in O(n m d).

    The estimate of each weight before normalising is unbiased, and its error falls as 1 / sqrt(m); it grows with
    exp(|q + k|^2 / (2 sqrt(d))), so large queries and keys need many features. Samples and heads do not see each
    other: scales are taken out for each by itself. Features and sums are in float32 at least, also under autocast.

    Definition: my_transformers/reference.py, performer_attention.

    Args:
        head_dim: of queries and keys.
        n_features: m; default 256, or head_dim if unprojected.
        kernel: see :func:`~my_transformers.performer.features.log_features`.
        orthogonal: orthogonal random directions rather than independent ones.
        turned: numbers at the end of queries and keys that are position features: see
            :func:`~my_transformers.performer.features.draw_projection` and :class:`~my_transformers.RelativeAttention`.
        epsilon: numerical stabiliser, see there; default 1e-3 for the generalised kernels, 0 for the exponential ones.
        redraw_every: new random directions after so many training forwards; None keeps the first. They follow from
            ``seed`` and the number of the drawing alone, so all processes of a training draw the same, and a resumed
            one continues with those it had: the buffer ``projection`` and the count are in the state dict. What
            is recomputed in backward, in a reversible stack or under torch.utils.checkpoint, is not counted. Under
            the latter it uses the newest directions: run backward before the next training forward, or the gradient
            may be another function's.
        causal: a token attends only to itself and earlier tokens; see
            :func:`~my_transformers.performer.causal.causal_kernel_attention`.
        chunk_size: of the causal form: tokens whose weights are computed one by one.
        dropout: probability of dropping a value in training, for all queries of a head at once: single weights are
            never computed.
        seed: of the directions; give each layer its own.

    Raises:
        ValueError: arguments that contradict each other or are out of range.
    """

    shared_query_key = False

    def __init__(
        self,
        head_dim: int,
        *,
        n_features: int | None = None,
        kernel: Kernel = "softmax",
        orthogonal: bool = True,
        turned: int = 0,
        epsilon: float | None = None,
        redraw_every: int | None = None,
        causal: bool = False,
        chunk_size: int = 128,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        self.head_dim = head_dim
        self.kernel = kernel
        self.orthogonal = orthogonal
        self.turned = turned
        self.redraw_every = redraw_every
        self.causal = causal
        self.chunk_size = chunk_size
        self.dropout = dropout
        self.seed = seed
        exponential = kernel in ("softmax", "hyperbolic", "unprojected")
        self.epsilon = (0.0 if exponential else _EPSILON) if epsilon is None else epsilon
        self.n_features = (head_dim if kernel == "unprojected" else 256) if n_features is None else n_features
        self._check(exponential, n_features)
        self._forwards = 0  # in training
        self.register_buffer("projection", None if kernel == "unprojected" else self._drawn(0))

    def _check(self, exponential: bool, n_features: int | None) -> None:
        if self.kernel not in KERNELS:
            raise ValueError(f"kernel is {self.kernel!r}, must be one of {', '.join(KERNELS)}")
        for name in ("head_dim", "n_features", "chunk_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.turned % 2 or not 0 <= self.turned <= self.head_dim:
            raise ValueError(f"turned is {self.turned}, must be even, and at most head_dim {self.head_dim}")
        alike = (2 if self.kernel == "hyperbolic" else 1) * (4 if self.turned else 1)
        if self.n_features % alike:
            raise ValueError(f"n_features is {self.n_features}, must be a multiple of {alike} with these settings")
        if self.redraw_every is not None and self.redraw_every < 1:
            raise ValueError(f"redraw_every is {self.redraw_every}, must be at least 1, or None for never")
        if self.kernel == "unprojected" and (n_features is not None or self.redraw_every is not None or self.turned):
            raise ValueError(
                "kernel='unprojected' has head_dim features and draws none: no n_features, no redraw_every, no turned"
            )
        if self.epsilon < 0 or (self.epsilon == 0 and not exponential):
            raise ValueError(f"epsilon is {self.epsilon}, must be positive: features of {self.kernel!r} can vanish")

    def extra_repr(self) -> str:
        """The settings that matter when a model is printed."""
        return f"kernel={self.kernel}, n_features={self.n_features}, causal={self.causal}"

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Q (b, h, n, d), k (b, h, m, d), v (b, h, m, e), mask (b, m) True where a key is real -> (b, h, n, e).

        A padded query's output is finite and of no meaning.

        Raises:
            ValueError: causal, and not as many keys as queries.
        """
        if self.causal and q.shape[2] != k.shape[2]:
            raise ValueError(
                f"causal attention needs as many keys as queries, got {q.shape[2]} queries and {k.shape[2]} keys"
            )
        projection = self._current_projection()
        v = drop_values(v, self.dropout if self.training else 0.0)
        with torch.autocast(q.device.type, enabled=False):
            exact = [x.to(torch.promote_types(x.dtype, torch.float32)) for x in (q, k, v)]
            log_phi = self._log_features(projection)
            if self.causal:
                out = causal_kernel_attention(*exact, *log_phi, mask=mask, chunk_size=self.chunk_size)
            else:
                out = bidirectional_kernel_attention(*exact, *log_phi, mask=mask)
        return out.to(v.dtype)

    def summarize(self, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What :meth:`attend` needs of keys (b, h, m, d) and values (b, h, m, e), of a size that does not grow with m.

        Features are computed once for many calls. Their graph is kept, where :meth:`forward` computes them again.

        Args:
            k: keys.
            v: values.
            mask: (b, m), True where a key is real.

        Returns:
            (b, h, 1, n_features) and (b, h, n_features, e), in float32 at least.

        Raises:
            ValueError: causal: then each query has keys of its own.
        """
        if self.causal:
            raise ValueError("causal=True: no summary of the keys is the same for all queries")
        v = drop_values(v, self.dropout if self.training else 0.0)
        with torch.autocast(k.device.type, enabled=False):
            k, v = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (k, v))
            return masses_and_means(self._log_features(self.projection)[1](k), v, mask)

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, *, mask: None = None) -> Tensor:
        """Q (b, h, n, d) and the results of :meth:`summarize`, which took the mask -> (b, h, n, e)."""
        with torch.autocast(q.device.type, enabled=False):
            log_phi_q, _ = self._log_features(self.projection)
            return mixture_of_means(log_phi_q(q.to(keys.dtype)), keys, values).to(q.dtype)

    def _current_projection(self) -> Tensor | None:
        if self.redraw_every is None or not self.training:
            return self.projection
        return decide(self._counted_projection)

    @torch.compiler.disable  # counts, which a graph cannot
    def _counted_projection(self) -> Tensor:
        if torch._C._current_graph_task_id() >= 0:  # in a backward pass, so torch.utils.checkpoint repeats a forward
            return self.projection
        if self._forwards and self._forwards % self.redraw_every == 0:
            self.projection = self._drawn(self._forwards // self.redraw_every).to(self.projection)
        self._forwards += 1
        return self.projection

    def _drawn(self, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        n_projections = self.n_features // 2 if self.kernel == "hyperbolic" else self.n_features
        return draw_projection(
            n_projections, self.head_dim, orthogonal=self.orthogonal, turned=self.turned, generator=generator
        )

    def get_extra_state(self) -> Tensor:
        """Training forwards so far, for the state dict."""
        return torch.tensor(self._forwards)

    def set_extra_state(self, state: Tensor) -> None:
        """Go on counting from a state dict."""
        self._forwards = int(state)

    def new_cache(self, like: Tensor, max_len: int) -> "PerformerCache":
        """An empty cache for decoding up to ``max_len`` tokens: m (d + 1) numbers per head; a step costs O(m d).

        Neither depends on the length.

        Args:
            like: (b, h, any, d), for sizes and device.
            max_len: tokens.
        """
        check_causal(self.causal)
        exact = like.to(torch.promote_types(like.dtype, torch.float32))
        return PerformerCache(PrefixSum.empty(exact, self.n_features), 0, max_len)

    def step(self, q: Tensor, k: Tensor, v: Tensor, cache: "PerformerCache") -> Tensor:
        """Attend with the next t tokens, each (b, h, t, ·) -> (b, h, t, e), and add them to the sum.

        Raises:
            ValueError: the cache is of another shape, or has no room for t more tokens.
        """
        batch, heads, _, width = cache.so_far.sums.shape  # the last of them adds up the weights
        cache.check(q, k, v, batch=batch, heads=heads, widths=(self.head_dim, self.head_dim, width - 1))
        with torch.autocast(q.device.type, enabled=False):
            q, k, exact = (x.to(cache.so_far.sums.dtype) for x in (q, k, v))
            log_phi_q, log_phi_k = self._log_features(self.projection)
            chunks = zip(*(x.split(self.chunk_size, dim=2) for x in (q, k, exact)), strict=True)
            out = [cache.attend(log_phi_q(q), log_phi_k(k), exact) for q, k, exact in chunks]
            return torch.cat(out, dim=2).to(v.dtype)

    def _log_features(self, projection: Tensor | None) -> tuple[LogFeatures, LogFeatures]:
        """Of queries and of keys."""
        of_keys = partial(log_features, projection=projection, kernel=self.kernel, epsilon=self.epsilon)
        return partial(of_keys, up_to_a_factor=True), of_keys


@dataclass
class PerformerCache(Cache):
    """The sum over all tokens so far."""

    so_far: PrefixSum
    length: int
    max_len: int

    def attend(self, log_q: Tensor, log_k: Tensor, value: Tensor) -> Tensor:
        """Add a chunk of c tokens, (b, h, c, ·) each, and attend with them: (b, h, c, e)."""
        seen, self.so_far = self.so_far.attend(log_q, log_k, value)
        self.length += value.shape[2]
        return divide_by_weights(seen, value)


def drop_values(v: Tensor, probability: float) -> Tensor:
    """Dropout of whole values: v (b, h, n, e) -> the same, each token's value zero or divided by 1 - probability."""
    if probability == 0:
        return v
    return v * nn.functional.dropout(torch.ones_like(v[..., :1]), probability)
