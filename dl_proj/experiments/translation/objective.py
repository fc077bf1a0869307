"""The objectives of translation."""

import math

import torch
from sacrebleu.metrics import BLEU
from torch import Tensor, nn

from dl_proj.experiments.translation.sentences import SentenceTokenizer
from dl_proj.models.beam_search import beam_search
from dl_proj.models.translation import EncoderDecoderModel
from my_custom_ai.utils.meters import Ratio

PairBatch = tuple[Tensor, Tensor, Tensor, Tensor]
_ORDERS = range(1, 5)  # n-gram lengths of BLEU
_MORE = 50  # a translation may be longer than its source by this many tokens (Vaswani et al. 2017, section 6.1)


def longest_targets(source_mask: Tensor, max_length: int) -> Tensor:
    """Return the maximum tokens of each source's translation, (b,) int64: 50 more than the source, if the model allows.

    Args:
        source_mask: (b, m), True where a token is real.
        max_length: maximum length of a target, including its end.
    """
    return (source_mask.sum(1) + _MORE).clamp_max(max_length - 1)


class PairObjective:
    """Cross-entropy of each target token given its source and the earlier target tokens.

    Training targets are smoothed (Szegedy et al. 2016, section 7); validation and test losses, and all perplexities,
    use the targets themselves, in nats per token, including the end of a sentence. Bits per byte refer to the target's
    text, so they are comparable across vocabularies.

    Args:
        tokenizer: the tokenizer of the targets.
        label_smoothing: probability that training targets distribute over all symbols.
    """

    def __init__(self, tokenizer: SentenceTokenizer, *, label_smoothing: float = 0.0) -> None:
        self._tokenizer = tokenizer
        self._bytes_of = tokenizer.bytes_of
        self._smoothing = label_smoothing

    def measure(self, model: nn.Module, batch: PairBatch) -> dict[str, Ratio]:
        """Measure a batch of source (b, m), its mask, target (b, n + 1) and its mask; see Objective."""
        source, source_mask, target, target_mask = batch
        logits = model(source, target[:, :-1], source_mask=source_mask, target_mask=target_mask[:, :-1])
        targets, real = target[:, 1:], target_mask[:, 1:]
        number = real.sum()
        # Autocast on a CPU would leave them in bfloat16, and round a sum over thousands of tokens to three digits.
        log_p = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        loss = exact = -_masked_sum(log_p.gather(2, targets.unsqueeze(2)).squeeze(2), real)
        if model.training and self._smoothing:
            loss = (1 - self._smoothing) * exact - self._smoothing * _masked_sum(log_p.mean(2), real)
        self._bytes_of = self._bytes_of.to(targets.device)  # copies on the first call only
        n_bytes = _masked_sum(self._bytes_of[targets], real)
        return {
            "loss": Ratio(loss, number),
            "cross_entropy": Ratio(exact.detach(), number),
            "bits_per_byte": Ratio(exact.detach() / math.log(2), n_bytes),
            "accuracy": Ratio(((log_p.detach().argmax(-1) == targets) & real).sum(), number),
        }

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """See :class:`~my_custom_ai.custom_train.objective.Objective`."""
        loss = means["cross_entropy"]
        return {"perplexity": math.inf if loss > 700 else math.exp(loss)}  # exp would overflow


def _masked_sum(values: Tensor, real: Tensor) -> Tensor:
    """Sum the values at real positions; indexing with the mask would wait for the GPU to learn the result's size."""
    return values.masked_fill(~real, 0).sum()


class TranslationObjective(PairObjective):
    """The same objective, plus BLEU of greedy translations in evaluation.

    Args:
        tokenizer, label_smoothing: see :class:`PairObjective`.
        max_length: maximum tokens of a translation, including its end; see :func:`longest_targets`.
    """

    def __init__(self, tokenizer: SentenceTokenizer, *, label_smoothing: float, max_length: int) -> None:
        super().__init__(tokenizer, label_smoothing=label_smoothing)
        self._max_length = max_length
        self._bleu = BLEU(smooth_method="none")  # counts are summed over all batches

    def measure(self, model: nn.Module, batch: PairBatch) -> dict[str, Ratio]:
        """See :class:`PairObjective`."""
        found = super().measure(model, batch)
        return found if model.training else found | self._translated(model, batch)

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """Add corpus-level BLEU (Papineni et al. 2002, section 2.3)."""
        figures = super().derived(means)
        if "length_ratio" in means:
            precisions = {name: means[name] for name in (f"precision_{n}" for n in _ORDERS)}
            figures |= {name: 0.0 for name, value in precisions.items() if math.isnan(value)}  # no such n-grams
            figures["bleu"] = _bleu([*precisions.values()], means["length_ratio"])
        return figures

    def _translated(self, model: nn.Module, batch: PairBatch) -> dict[str, Ratio]:
        """Return BLEU's counts per sentence: n-grams that also occur in the reference, and lengths in words."""
        source, source_mask, target, target_mask = batch
        max_len = longest_targets(source_mask, self._max_length)
        assert isinstance(model, EncoderDecoderModel)  # in evaluation the model is unwrapped
        best = beam_search(model, source, source_mask, boundary=self._tokenizer.boundary, max_len=max_len, beam_size=1)
        hypotheses = [self._tokenizer.decode(hypothesis.tokens) for hypothesis in best]
        references = [
            self._tokenizer.decode(row[real][1:-1].tolist()) for row, real in zip(target, target_mask, strict=True)
        ]
        pairs = zip(hypotheses, references, strict=True)
        scores = [self._bleu.corpus_score([hypothesis], [[reference]]) for hypothesis, reference in pairs]
        figures = {f"precision_{n}": [(one.counts[n - 1], one.totals[n - 1]) for one in scores] for n in _ORDERS}
        figures["length_ratio"] = [(one.sys_len, one.ref_len) for one in scores]
        return {name: Ratio(*torch.tensor(some, device=source.device).T) for name, some in figures.items()}


def _bleu(precisions: list[float], length_ratio: float) -> float:
    """Return 100 times the geometric mean of the precisions times the brevity penalty; 0 if a precision is 0 or nan."""
    if not all(precision > 0 for precision in precisions):
        return 0.0
    brevity = min(0.0, 1 - 1 / length_ratio)
    return 100 * math.exp(brevity + math.fsum(map(math.log, precisions)) / len(precisions))
