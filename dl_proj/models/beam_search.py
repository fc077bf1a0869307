"""Beam search for probable targets."""

from typing import NamedTuple

import torch
from torch import Tensor

from dl_proj.models.sampling import check_logits
from dl_proj.models.translation import EncoderDecoderModel


class Hypothesis(NamedTuple):
    """A finished target."""

    tokens: list[int]  # without the boundary
    log_probability: float  # of the tokens and the boundary at the end
    score: float  # the length-normalised log probability


@torch.no_grad()
def beam_search(
    model: EncoderDecoderModel,
    source: Tensor,
    source_mask: Tensor | None = None,
    *,
    boundary: int,
    max_len: int | Tensor,
    beam_size: int = 4,
    length_penalty: float = 0.6,
) -> list[Hypothesis]:
    """Return the best target of each source found by beam search; ``beam_size`` 1 is greedy search.

    In each step, every live hypothesis y_1 ... y_t of a source is extended by every token, and the ``beam_size`` most
    probable extensions are kept. Those that end leave the beam; the result is the one with the best

        score = log p(y_1 ... y_n | source) / ((5 + n) / 6)^alpha

    where the n tokens include the boundary at the end (Wu et al. 2016, equation 14 without coverage). The search of a
    source continues while a live hypothesis could still beat the best one: log p only decreases, so a score is at most
    log p / ((5 + max_len + 1) / 6)^alpha, and a smaller ``max_len`` ends the search sooner. With a beam that holds all
    prefixes, the result is therefore the best of all targets.

    Other sources in the batch affect only rounding. Among equal scores, the hypothesis that ended first wins, then the
    first in the beam. A step costs the forward pass of one token for beam_size rows per unfinished source; the host
    waits for the device twice.

    Args:
        model: the model, in eval mode.
        source: (b, m) int64.
        source_mask: (b, m), True where a token is real; None: all are.
        boundary: the symbol that starts and ends a target.
        max_len: maximum tokens of a target, without the boundary; a target of this length is ended, at the boundary's
            probability. A tensor (b,) int64 sets it per source, such as length + 50 (Vaswani et al. 2017, section 6.1).
        beam_size: hypotheses kept per source.
        length_penalty: alpha; 0 compares log p, larger values favour long targets.

    Returns:
        b hypotheses.

    Raises:
        ValueError: the model is in training mode, its positions do not suffice, or a number is out of range.
        NonFinite: the logits do not define a distribution.
    """
    max_len = torch.as_tensor(max_len, device=source.device).expand(len(source))
    limits = int(max_len.min()), int(max_len.max())
    _check(model, limits, beam_size, length_penalty)
    context = model.encode(source, source_mask)
    cache = model.new_cache(context, source_mask, max_len=limits[1] + 1, targets=beam_size)
    search = _Search(context, beam_size, boundary=boundary, max_len=max_len, limits=limits, alpha=length_penalty)
    while len(search.sources):
        logits = model.step(search.tokens[:, -1], cache)
        check_logits(logits)
        rows, stay = search.extend(logits)
        if beam_size > 1 or stay is not None:  # otherwise every row continues itself
            cache.select_rows(rows, stay)
    return search.hypotheses()


def _check(model: EncoderDecoderModel, limits: tuple[int, int], beam_size: int, length_penalty: float) -> None:
    if model.training:
        raise ValueError("the model is in training mode, and dropout would affect the search; call model.eval()")
    positions = model.target_positions.max_len
    for max_len in limits:
        if not 1 <= max_len < positions:
            raise ValueError(
                f"max_len is {max_len}, must be in [1, {positions - 1}]: the model has {positions} positions, and the "
                "boundary takes one"
            )
    if beam_size < 1 or length_penalty < 0:
        raise ValueError(f"beam_size is {beam_size}, length_penalty {length_penalty}: must be at least 1 and 0")


class _Search:
    """The beams of the unfinished sources, and the best finished hypothesis of every source.

    Shapes: b sources, B of them unfinished, with k hypotheses each in B * k rows.
    """

    def __init__(
        self, context: Tensor, k: int, *, boundary: int, max_len: Tensor, limits: tuple[int, int], alpha: float
    ) -> None:
        self.k, self.boundary, self.alpha = k, boundary, alpha
        self.shortest, longest = limits  # bounds of max_len, known to the host
        batch, exact = len(context), torch.promote_types(context.dtype, torch.float32)
        self.sources = torch.arange(batch, device=context.device)  # (B,), indices of unfinished sources
        self.tokens = self.sources.new_full((batch * k, 1), boundary)  # (B k, boundary and tokens so far)
        self.log_p = context.new_full((batch, k), -torch.inf, dtype=exact)  # (B, k); -inf: no hypothesis
        self.log_p[:, 0] = 0
        self.max_len = max_len.to(exact)  # (B,)
        self.best = self.sources.new_full((batch, longest + 1), boundary)  # (b, ·), tokens, filled up with boundaries
        self.best_log_p = self.log_p.new_full((batch,), -torch.inf)  # (b,)
        self.best_score = self.best_log_p.clone()  # (b,)

    def extend(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """Keep the best extensions, given the logits (B k, vocab) of the next token.

        Returns, for each row that remains, the index of the row that it extends, (any,) int64; and the indices, among
        the B, of the sources that remain unfinished, or None for all.
        """
        n, vocab = self.tokens.shape[1], logits.shape[-1]  # index of the new token, from 1
        log_p = logits.to(self.log_p.dtype).log_softmax(-1).add_(self.log_p.view(-1, 1))
        if n > self.shortest:
            others = torch.arange(vocab, device=logits.device) != self.boundary
            must_end = (n > self.max_len).repeat_interleave(self.k)
            log_p.masked_fill_(must_end.unsqueeze(1) & others, -torch.inf)
        log_p, place = log_p.view(-1, self.k * vocab).topk(self.k)  # (B, k)
        new = place % vocab
        rows = place // vocab + self._first_rows()
        self.tokens = torch.cat((self.tokens[rows.flatten()], new.view(-1, 1)), dim=1)
        ended = new == self.boundary
        self._finish(log_p.masked_fill(~ended, -torch.inf), n)
        self.log_p = log_p.masked_fill(ended, -torch.inf)
        return self._drop_finished(rows)

    def _first_rows(self) -> Tensor:
        """Return the index of each beam's first row, (B, 1)."""
        return self.k * torch.arange(len(self.sources), device=self.sources.device).unsqueeze(1)

    def _finish(self, log_p: Tensor, n: int) -> None:
        """Keep the best of the hypotheses that end at token n, if it beats earlier ones; -inf: has not ended."""
        log_p, which = log_p.max(1)
        found = (self.tokens[self._first_rows().squeeze(1) + which, 1:], log_p, self._score(log_p, n))
        better = found[-1] > self.best_score[self.sources]
        for best, new in zip((self.best[:, :n], self.best_log_p, self.best_score), found, strict=True):
            best[self.sources] = torch.where(better.view(-1, *[1] * (new.ndim - 1)), new, best[self.sources])

    def _score(self, log_p: Tensor, n: int | Tensor) -> Tensor:
        return log_p / ((5 + n) / 6) ** self.alpha

    def _drop_finished(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        can_win = self._score(self.log_p.amax(1), self.max_len + 1) > self.best_score[self.sources]
        stay = can_win.nonzero().squeeze(1)  # synchronises with the device
        if len(stay) == len(self.sources):
            return rows.flatten(), None
        self.sources, self.max_len, self.log_p = self.sources[stay], self.max_len[stay], self.log_p[stay]
        self.tokens = self.tokens.unflatten(0, (-1, self.k))[stay].flatten(0, 1)
        return rows[stay].flatten(), stay

    def hypotheses(self) -> list[Hypothesis]:
        """Return the best hypothesis of each source."""
        found = zip(self.best.tolist(), self.best_log_p.tolist(), self.best_score.tolist(), strict=True)
        return [Hypothesis(tokens[: tokens.index(self.boundary)], log_p, score) for tokens, log_p, score in found]
