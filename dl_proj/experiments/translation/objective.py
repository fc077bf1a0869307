"""Translation: what a model of sentence pairs is trained on and measured by."""

import math

import torch
from sacrebleu.metrics import BLEU
from torch import Tensor, nn

from dl_proj.experiments.translation.sentences import SentenceTokenizer
from dl_proj.models.beam_search import beam_search
from dl_proj.models.translation import EncoderDecoderModel
from my_custom_ai.utils.meters import Ratio

PairBatch = tuple[Tensor, Tensor, Tensor, Tensor]
_ORDERS = range(1, 5)  # lengths of the n-grams that BLEU counts
_MORE = 50  # tokens that a translation may have beyond its source's (Vaswani et al. 2017, section 6.1)


def longest_targets(source_mask: Tensor, max_length: int) -> Tensor:
    """Tokens that the translation of each source may have, (b,) int64: 50 more than the source, within the model's.

    Args:
        source_mask: (b, m), True where a token is real.
        max_length: of a target, its end included.
    """
    return (source_mask.sum(1) + _MORE).clamp_max(max_length - 1)


class PairObjective:
    """Cross-entropy of each target token given its source and the tokens before it.

    In training the targets are smoothed (Szegedy et al. 2016, section 7); validation and test losses, and perplexity
    everywhere, are those of the targets themselves, in nats a token, the symbol at the end of a sentence included. Bits
    per byte are by the target's bytes of text, so they compare models of other vocabularies.

    Args:
        tokenizer: of the targets.
        label_smoothing: probability that the training targets share out among all symbols.
    """

    def __init__(self, tokenizer: SentenceTokenizer, *, label_smoothing: float = 0.0) -> None:
        self._tokenizer = tokenizer
        self._bytes_of = tokenizer.bytes_of
        self._smoothing = label_smoothing

    def measure(self, model: nn.Module, batch: PairBatch) -> dict[str, Ratio]:
        """Batch of source (b, m), its mask, target (b, n + 1) and its mask; see Objective."""
        source, source_mask, target, target_mask = batch
        logits = model(source, target[:, :-1], source_mask=source_mask, target_mask=target_mask[:, :-1])
        targets, real = target[:, 1:], target_mask[:, 1:]
        number = real.sum()
        log_p = logits.log_softmax(-1)
        loss = exact = -_sum_of(log_p.gather(2, targets.unsqueeze(2)).squeeze(2), real)
        if model.training and self._smoothing:
            loss = (1 - self._smoothing) * exact - self._smoothing * _sum_of(log_p.mean(2), real)
        self._bytes_of = self._bytes_of.to(targets.device)  # moves once
        n_bytes = _sum_of(self._bytes_of[targets], real)
        return {
            "loss": Ratio(loss, number),
            "cross_entropy": Ratio(exact.detach(), number),
            "bits_per_byte": Ratio(exact.detach() / math.log(2), n_bytes),
            "accuracy": Ratio(((logits.detach().argmax(-1) == targets) & real).sum(), number),
        }

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """See :class:`~my_custom_ai.custom_train.objective.Objective`."""
        loss = means["cross_entropy"]
        return {"perplexity": math.inf if loss > 700 else math.exp(loss)}  # which raises beyond that


def _sum_of(values: Tensor, real: Tensor) -> Tensor:
    """Sum of the values at real places; picking these out first would make the host wait to learn how many they are."""
    return values.masked_fill(~real, 0).sum()


class TranslationObjective(PairObjective):
    """The same, and in evaluation the BLEU of greedy translations.

    Args:
        tokenizer, label_smoothing: see :class:`PairObjective`.
        max_length: tokens of a translation at most, its end included; see :func:`longest_targets`.
    """

    def __init__(self, tokenizer: SentenceTokenizer, *, label_smoothing: float, max_length: int) -> None:
        super().__init__(tokenizer, label_smoothing=label_smoothing)
        self._max_length = max_length
        self._bleu = BLEU(smooth_method="none")  # its counts are added up over all batches

    def measure(self, model: nn.Module, batch: PairBatch) -> dict[str, Ratio]:
        """See :class:`PairObjective`."""
        found = super().measure(model, batch)
        return found if model.training else found | self._translated(model, batch)

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """With BLEU (Papineni et al. 2002, section 2.3), whose counts are those of all sentences together."""
        figures = super().derived(means)
        if "length_ratio" in means:
            shares = {name: means[name] for name in (f"precision_{n}" for n in _ORDERS)}
            figures |= {name: 0.0 for name, share in shares.items() if math.isnan(share)}  # nothing was counted
            figures["bleu"] = _bleu([*shares.values()], means["length_ratio"])
        return figures

    def _translated(self, model: nn.Module, batch: PairBatch) -> dict[str, Ratio]:
        """What BLEU counts in each sentence: n-grams that the reference has too, and lengths, in words."""
        source, source_mask, target, target_mask = batch
        max_len = longest_targets(source_mask, self._max_length)
        assert isinstance(model, EncoderDecoderModel)  # an evaluation is given the model itself, not wrapped
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
    """100 times the geometric mean of the precisions, times the brevity penalty; 0 where there is nothing in common."""
    if not all(precision > 0 for precision in precisions):  # nan where nothing was counted
        return 0.0
    brevity = min(0.0, 1 - 1 / length_ratio)
    return 100 * math.exp(brevity + math.fsum(map(math.log, precisions)) / len(precisions))
