"""Beam search: a probable target of each source."""

from typing import NamedTuple

import torch
from torch import Tensor

from dl_proj.models.sampling import check_logits
from dl_proj.models.translation import EncoderDecoderModel


class Hypothesis(NamedTuple):
    """A finished target."""

    tokens: list[int]  # without the boundary
    log_probability: float  # of the tokens and the boundary that ends them
    score: float  # by which it was chosen


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
    """The best target of each source that a beam search finds; with ``beam_size`` 1 the greedy one.

    In each step, each live hypothesis y_1 ... y_t of a source is continued by every token, and the ``beam_size`` most
    probable of all these are kept. Those of them that end leave the beam; the best of them by

        score = log p(y_1 ... y_n | source) / ((5 + n) / 6)^alpha

    is the result, with n tokens, the boundary at the end among them (Wu et al. 2016, equation 14 without coverage). A
    search goes on while a live hypothesis could still beat its source's best: log p only falls, so it scores at most
    log p / ((5 + max_len + 1) / 6)^alpha; the shorter targets may be, the sooner it ends. A beam that holds all
    prefixes therefore gives the best of all targets.

    Other sources in the batch change nothing but rounding. Of equals the one that ended first is taken, then the one
    that stands first in the beam. One step costs one forward of a token for beam_size rows a source that is not done;
    the host waits for the device twice.

    Args:
        model: in eval mode.
        source: (b, m) int64.
        source_mask: (b, m), True where a token is real; None: all are.
        boundary: the symbol that starts and ends a target.
        max_len: tokens of a target at most, without boundary: one so long is ended, at the boundary's probability. For
            each source its own if (b,) int64, such as its length + 50 (Vaswani et al. 2017, section 6.1).
        beam_size: hypotheses that are kept of a source.
        length_penalty: alpha; 0 compares log p, more favours long targets.

    Returns:
        b hypotheses.

    Raises:
        ValueError: a model in training mode, targets that its positions do not reach, or numbers out of range.
        NonFinite: the logits are no distribution.
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
        if beam_size > 1 or stay is not None:  # else every row goes on with itself
            cache.select_rows(rows, stay)
    return search.hypotheses()


def _check(model: EncoderDecoderModel, limits: tuple[int, int], beam_size: int, length_penalty: float) -> None:
    if model.training:
        raise ValueError("the model is in training mode, whose dropout would change the search; call model.eval()")
    positions = model.target_positions.max_len
    for max_len in limits:
        if not 1 <= max_len < positions:
            raise ValueError(
                f"max_len is {max_len}, must be in [1, {positions - 1}]: there are {positions} positions, and the "
                "boundary takes one"
            )
    if beam_size < 1 or length_penalty < 0:
        raise ValueError(f"beam_size is {beam_size}, length_penalty {length_penalty}: must be at least 1 and 0")


class _Search:
    """The beams of the sources that are not done, and the best finished hypothesis of every source.

    Letters: b sources, B of them not done, k hypotheses of each of these in B * k rows.
    """

    def __init__(
        self, context: Tensor, k: int, *, boundary: int, max_len: Tensor, limits: tuple[int, int], alpha: float
    ) -> None:
        self.k, self.boundary, self.alpha = k, boundary, alpha
        self.shortest, longest = limits  # of max_len, which the host knows
        batch, exact = len(context), torch.promote_types(context.dtype, torch.float32)
        self.sources = torch.arange(batch, device=context.device)  # (B,), the numbers of those that are not done
        self.tokens = self.sources.new_full((batch * k, 1), boundary)  # (B k, tokens so far and the boundary before)
        self.log_p = context.new_full((batch, k), -torch.inf, dtype=exact)  # (B, k); -inf: there is no hypothesis
        self.log_p[:, 0] = 0
        self.max_len = max_len.to(exact)  # (B,)
        self.best = self.sources.new_full((batch, longest + 1), boundary)  # (b, ·), the tokens, ended by boundaries
        self.best_log_p = self.log_p.new_full((batch,), -torch.inf)  # (b,)
        self.best_score = self.best_log_p.clone()  # (b,)

    def extend(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """Keep the best continuations, by the logits (B k, vocab) of the next token.

        Gives for each row that goes on the one that it continues, (any,) int64, and the sources that are not done, of
        the B; None: all.
        """
        n, vocab = self.tokens.shape[1], logits.shape[-1]  # number of the new token, from 1
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
        """(B, 1)."""
        return self.k * torch.arange(len(self.sources), device=self.sources.device).unsqueeze(1)

    def _finish(self, log_p: Tensor, n: int) -> None:
        """Keep the best of the hypotheses that end with token n, if it beats those before it; -inf: did not end."""
        log_p, which = log_p.max(1)
        found = (self.tokens[self._first_rows().squeeze(1) + which, 1:], log_p, self._score(log_p, n))
        better = found[-1] > self.best_score[self.sources]
        for best, new in zip((self.best[:, :n], self.best_log_p, self.best_score), found, strict=True):
            best[self.sources] = torch.where(better.view(-1, *[1] * (new.ndim - 1)), new, best[self.sources])

    def _score(self, log_p: Tensor, n: int | Tensor) -> Tensor:
        return log_p / ((5 + n) / 6) ** self.alpha

    def _drop_finished(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        can_win = self._score(self.log_p.amax(1), self.max_len + 1) > self.best_score[self.sources]
        stay = can_win.nonzero().squeeze(1)  # the host waits here
        if len(stay) == len(self.sources):
            return rows.flatten(), None
        self.sources, self.max_len, self.log_p = self.sources[stay], self.max_len[stay], self.log_p[stay]
        self.tokens = self.tokens.unflatten(0, (-1, self.k))[stay].flatten(0, 1)
        return rows[stay].flatten(), stay

    def hypotheses(self) -> list[Hypothesis]:
        """Each source's best."""
        found = zip(self.best.tolist(), self.best_log_p.tolist(), self.best_score.tolist(), strict=True)
        return [Hypothesis(tokens[: tokens.index(self.boundary)], log_p, score) for tokens, log_p, score in found]
