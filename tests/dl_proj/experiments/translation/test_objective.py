"""Loss, perplexity and BLEU of a translation model: against torch's and sacrebleu's, computed at once."""

import math

import pytest
import sacrebleu
import torch
import torch.nn.functional as F

from dl_proj.experiments.translation.data import padded
from dl_proj.experiments.translation.objective import PairObjective, TranslationObjective
from dl_proj.experiments.translation.sentences import learn_sentences
from dl_proj.models.beam_search import beam_search
from dl_proj.models.build import build_encoder_decoder
from dl_proj.models.settings import EncoderDecoderConfig
from my_custom_ai.custom_train.objective import all_figures
from my_custom_ai.utils.meters import Meter

PAIRS = [
    ("a dog runs", "ein Hund rennt"),
    ("two dogs run in the snow", "zwei Hunde rennen im Schnee"),
    ("a man", "ein Mann"),
    ("a woman with a dog", "eine Frau mit einem Hund, drau\u00dfen"),
    ("the snow", "der Schnee"),
] * 3
MAX_LENGTH = 40


@pytest.fixture(scope="module")
def tokenizer():
    return learn_sentences([sentence for pair in PAIRS for sentence in pair], 330)


def batch_of(tokenizer, pairs):
    end = tokenizer.boundary
    sources = [torch.tensor([*tokens, end]) for tokens in tokenizer.encode([source for source, _ in pairs])]
    targets = [torch.tensor([end, *tokens, end]) for tokens in tokenizer.encode([target for _, target in pairs])]
    return *padded(sources, end), *padded(targets, end)


@pytest.fixture(scope="module")
def model(tokenizer):
    """Trained for a moment, so that some translations are right and some are not."""
    torch.manual_seed(0)
    vocab = tokenizer.vocab_size
    model = build_encoder_decoder(
        EncoderDecoderConfig(dim=32, heads=2, ffn_dim=32),
        source_vocab_size=vocab,
        target_vocab_size=vocab,
        max_source_len=MAX_LENGTH,
        max_target_len=MAX_LENGTH,
    )
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(40):
        PairObjective(tokenizer).measure(model, batch_of(tokenizer, PAIRS[:3]))["loss"].value.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_training_loss_is_smoothed_and_the_others_are_not(tokenizer, model, smoothing):
    source, source_mask, target, target_mask = batch = batch_of(tokenizer, PAIRS[:5])
    logits = model(source, target[:, :-1], source_mask=source_mask, target_mask=target_mask[:, :-1]).double()
    aim = target[:, 1:].masked_fill(~target_mask[:, 1:], -100).flatten()
    exact, smooth = (
        F.cross_entropy(logits.flatten(0, 1), aim, label_smoothing=share).item() for share in (0.0, smoothing)
    )
    task = PairObjective(tokenizer, label_smoothing=smoothing)
    trained, tested = (task.measure(model.train(mode), batch) for mode in (True, False))
    n_bytes = sum(len(f" {text}".encode()) for _, text in PAIRS[:5])
    n_tokens = target_mask[:, 1:].sum().item()
    assert trained["loss"].value.item() == pytest.approx(smooth, rel=1e-5)
    assert trained["loss"].value.requires_grad
    assert tested["loss"].value.item() == pytest.approx(exact, rel=1e-5)
    for figures in (trained, tested):
        assert figures["cross_entropy"].value.item() == pytest.approx(exact, rel=1e-5)
        bits = figures["bits_per_byte"].value.item()
        assert bits == pytest.approx(exact * n_tokens / math.log(2) / n_bytes, rel=1e-5)
    right = (logits.argmax(-1).flatten() == aim).sum().item() / n_tokens
    assert 0 < right < 1
    assert tested["accuracy"].value.item() == pytest.approx(right)


def test_the_loss_of_rounded_logits_is_exact(tokenizer):
    """Mixed precision ends at the logits: on a CPU, autocast would also compute and add up log p in bfloat16."""
    torch.manual_seed(0)
    batch = batch_of(tokenizer, PAIRS * 20)
    target, target_mask = batch[2:]
    logits = torch.randn(*target[:, 1:].shape, tokenizer.vocab_size).bfloat16()
    aim = target[:, 1:].masked_fill(~target_mask[:, 1:], -100).flatten()
    exact = F.cross_entropy(logits.double().flatten(0, 1), aim).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = PairObjective(tokenizer).measure(Said(logits), batch)
    assert found["loss"].value.item() == pytest.approx(exact, rel=1e-6)
    assert found["cross_entropy"].value.item() == pytest.approx(exact, rel=1e-6)


class Said(torch.nn.Module):
    """A model that answers with the same logits whatever it is asked."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, *_, **__):
        return self.logits


def test_padding_counts_in_nothing(tokenizer, model):
    source, source_mask, target, target_mask = batch_of(tokenizer, PAIRS[:5])
    longer = [F.pad(part, (0, 4), value=fill) for part, fill in ((source, 3), (target, 3))]
    masks = [F.pad(mask, (0, 4), value=False) for mask in (source_mask, target_mask)]
    task = TranslationObjective(tokenizer, label_smoothing=0.0, max_length=MAX_LENGTH)
    wide = task.measure(model, (longer[0], masks[0], longer[1], masks[1]))
    for name, ratio in task.measure(model, (source, source_mask, target, target_mask)).items():
        assert wide[name].total.tolist() == pytest.approx(ratio.total.tolist(), rel=1e-5), name
        assert torch.equal(torch.as_tensor(wide[name].count), torch.as_tensor(ratio.count)), name


def test_perplexity_is_of_the_unsmoothed_loss(tokenizer):
    task = PairObjective(tokenizer, label_smoothing=0.1)
    assert task.derived({"loss": 5.0, "cross_entropy": 2.0}) == {"perplexity": pytest.approx(math.e**2)}
    assert task.derived({"loss": 5.0, "cross_entropy": 1e4}) == {"perplexity": math.inf}


@pytest.mark.parametrize("batch_size", [1, 4, 15])
def test_bleu_is_that_of_all_sentences_together(tokenizer, model, batch_size):
    task, meter = TranslationObjective(tokenizer, label_smoothing=0.1, max_length=MAX_LENGTH), Meter()
    hypotheses = []
    for first in range(0, len(PAIRS), batch_size):
        batch = batch_of(tokenizer, PAIRS[first : first + batch_size])
        meter.add(task.measure(model, batch))
        best = beam_search(model, *batch[:2], boundary=tokenizer.boundary, max_len=MAX_LENGTH - 1, beam_size=1)
        hypotheses += [tokenizer.decode(hypothesis.tokens) for hypothesis in best]
    expected = sacrebleu.corpus_bleu(hypotheses, [[target for _, target in PAIRS]])
    assert 5 < expected.score < 95
    assert all_figures(task, meter.means())["bleu"] == pytest.approx(expected.score, rel=1e-6)


@pytest.mark.parametrize(
    ("hypotheses", "score"),
    [
        (["ein Hund", "der"], None),  # too short: a brevity penalty
        (["ein Hund rennt und rennt und rennt im Schnee", "ein Hund rennt im Schnee"], None),
        (["x y z w", "u v"], 0.0),  # sacrebleu would smooth this
        (["", ""], 0.0),
    ],
)
def test_brevity_and_nothing_in_common(tokenizer, hypotheses, score):
    references = ["ein Hund rennt im Schnee", "der Hund rennt im Schnee"]
    task = TranslationObjective(tokenizer, label_smoothing=0.0, max_length=MAX_LENGTH)
    found = sacrebleu.corpus_bleu(hypotheses, [references], smooth_method="none")
    shares = [count / total if total else math.nan for count, total in zip(found.counts, found.totals, strict=True)]
    means = {f"precision_{n}": share for n, share in enumerate(shares, 1)}
    figures = task.derived({"cross_entropy": 1.0, "length_ratio": found.sys_len / found.ref_len} | means)
    assert figures["bleu"] == pytest.approx(found.score if score is None else score)
    assert not any(math.isnan(value) for value in (means | figures).values())


def test_training_translates_nothing(tokenizer, model):
    task = TranslationObjective(tokenizer, label_smoothing=0.1, max_length=MAX_LENGTH)
    found = task.measure(model.train(), batch_of(tokenizer, PAIRS[:2]))
    model.eval()
    assert "length_ratio" not in found
    assert "bleu" not in task.derived({name: ratio.value.item() for name, ratio in found.items()})
