"""Beam search: against all targets, against a naive search without caches or batches, and at its borders."""

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from dl_proj.models.beam_search import beam_search
from dl_proj.models.build import build_encoder_decoder
from dl_proj.models.settings import EncoderDecoderConfig
from my_custom_ai.custom_train.errors import NonFinite
from my_transformers import NoPositionalEncoding

BOUNDARY = 1
LSH = {"kind": "lsh", "bucket_size": 3, "n_rounds": 2}
PERFORMER = {"kind": "performer", "n_features": 8, "chunk_size": 4}
LINFORMER = {"kind": "linformer", "rank": 3}
FULL = {"kind": "full"}
ENCODERS = [FULL, LSH, LINFORMER, PERFORMER, {"kind": "shared_qk"}, {"kind": "local", "chunk_size": 3}]
DECODERS = [
    FULL,
    LSH,
    PERFORMER,
    {"kind": "shared_qk"},
    {"kind": "local", "chunk_size": 2},
    {"kind": "causal_linformer", "block_size": 3, "rank": 2},
    {"kind": "relative", "n_features": 16, "n_scales": 2},
    {"kind": "clipped_relative", "n_features": 8, "distance": 2},
]
KINDS = [  # each once at least, with the others
    *((encoder, FULL, FULL) for encoder in ENCODERS),
    *((FULL, decoder, FULL) for decoder in DECODERS),
    *((LSH, LSH, across) for across in (LINFORMER, PERFORMER)),
]


def translator(encoder=FULL, decoder=FULL, across=FULL, *, seed=0, vocab=9, reversible=False, positions=9):
    """In float64, with weights large enough that the first choice is often not the best one."""
    config = EncoderDecoderConfig.model_validate(
        {"dim": 12, "heads": 2, "encoder_depth": 2, "decoder_depth": 2, "ffn_dim": 20, "dropout": 0.3}
        | {"encoder_attention": encoder, "decoder_attention": decoder, "cross_attention": across}
        | {"reversible": reversible}
    )
    sizes = {"source_vocab_size": 13, "target_vocab_size": vocab, "max_source_len": 11, "max_target_len": positions}
    model = build_encoder_decoder(config, **sizes).double().eval()
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            nn.init.normal_(parameter, std=1.0 if "embedding" in name else 0.7)
    model.to_logits.bias.data[BOUNDARY] += 0.5  # else few end before they must
    return model


def batch(lengths=(4, 11, 1, 6)):
    source = torch.randint(13, (len(lengths), max(lengths)))
    return source, torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)


def log_p_of_next(model, source, targets):
    """(m,) and (k, n) without the boundary before -> (k, n + 1, vocab), by a whole forward."""
    targets = torch.tensor([[BOUNDARY, *target] for target in targets])
    return model(source.expand(len(targets), -1), targets).log_softmax(-1)


def score(log_p, n, alpha):
    return log_p / ((5 + n) / 6) ** alpha


@torch.no_grad()
def best_of_all(model, source, max_len, vocab, alpha):
    """By the probability of each target that there can be."""
    found = []
    for n in range(max_len + 1):
        targets = list(itertools.product([token for token in range(vocab) if token != BOUNDARY], repeat=n))
        log_p = log_p_of_next(model, source, targets)
        for target, own in zip(targets, log_p, strict=True):
            total = sum(own[i, token].item() for i, token in enumerate((*target, BOUNDARY)))
            found.append((score(total, n + 1, alpha), total, list(target)))
    return max(found)


@torch.no_grad()
def naive_search(model, source, max_len, k, alpha):
    """One source, no cache, never stopped early."""
    live, best = [(0.0, [])], (-float("inf"), None, None)
    for n in range(1, max_len + 2):
        log_p = log_p_of_next(model, source, [tokens for _, tokens in live])[:, -1].tolist()
        extended = [
            (total + p, [*tokens, token])
            for (total, tokens), own in zip(live, log_p, strict=True)
            for token, p in enumerate(own)
            if n <= max_len or token == BOUNDARY
        ]
        kept = sorted(extended, reverse=True)[:k]
        ended = [(score(total, n, alpha), total, tokens[:-1]) for total, tokens in kept if tokens[-1] == BOUNDARY]
        best = max([best, *ended], key=lambda hypothesis: hypothesis[0])
        live = [(total, tokens) for total, tokens in kept if tokens[-1] != BOUNDARY]
        if not live:
            break
    return best


def assert_found(hypothesis, expected):
    value, log_p, tokens = expected
    assert hypothesis.tokens == tokens
    assert hypothesis.log_probability == pytest.approx(log_p, abs=1e-9)
    assert hypothesis.score == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_a_beam_that_holds_all_prefixes_finds_the_best_of_all_targets(alpha):
    differs = 0
    for seed in range(12):
        model, (source, mask) = translator(seed=seed, vocab=4), batch((3, 5))
        found = beam_search(model, source, mask, boundary=BOUNDARY, max_len=4, beam_size=3**3 * 4, length_penalty=alpha)
        greedy = beam_search(model, source, mask, boundary=BOUNDARY, max_len=4, beam_size=1, length_penalty=alpha)
        for number, length in enumerate((3, 5)):
            assert_found(found[number], best_of_all(model, source[number, :length], 4, 4, alpha))
            differs += found[number].tokens != greedy[number].tokens
    assert differs >= 3  # so that greedy search would not pass


def assert_naive(model, k, alpha, max_len):
    """Of sources of several lengths; all their targets, or each one's, have max_len tokens at most."""
    lengths = (4, 11, 1, 6)
    source, mask = batch(lengths)
    longest = max_len.tolist() if torch.is_tensor(max_len) else [max_len] * 4
    found = beam_search(model, source, mask, boundary=BOUNDARY, max_len=max_len, beam_size=k, length_penalty=alpha)
    for hypothesis, own, length, most in zip(found, source, lengths, longest, strict=True):
        assert_found(hypothesis, naive_search(model, own[:length], most, k, alpha))
    return [len(hypothesis.tokens) for hypothesis in found]


@pytest.mark.parametrize("reversible", [False, True])
@pytest.mark.parametrize(("encoder", "decoder", "across"), KINDS)
def test_every_mechanism_searches_as_without_caches_and_batches(encoder, decoder, across, reversible):
    assert_naive(translator(encoder, decoder, across, reversible=reversible, seed=3), 3, 1.0, max_len=6)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 12])
def test_every_beam_size_searches_as_without_caches_and_batches(k):
    """Twelve are more than the symbols."""
    lengths = set()
    for seed, alpha in itertools.product((1, 3, 5), (0.0, 1.0)):
        lengths |= set(assert_naive(translator(seed=seed), k, alpha, max_len=8))
    assert len(lengths) > 2


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_each_source_may_have_a_greatest_length_of_its_own(k, alpha):
    for seed in (1, 3):
        assert_naive(translator(seed=seed), k, alpha, torch.tensor([8, 3, 5, 1]))
    assert assert_naive(pressed(-40.0), k, alpha, torch.tensor([8, 3, 5, 1])) == [8, 3, 5, 1]


def test_greedy_takes_the_most_probable_token_until_it_is_the_boundary():
    for seed in range(4):
        model, (source, mask) = translator(seed=seed), batch((5,))
        (found,) = beam_search(model, source, mask, boundary=BOUNDARY, max_len=8, beam_size=1, length_penalty=2.0)
        tokens, total = [], 0.0
        while not tokens or tokens[-1] != BOUNDARY:
            log_p = log_p_of_next(model, source[0], [tokens])[0, -1]
            tokens.append(int(log_p.argmax()) if len(tokens) < 8 else BOUNDARY)
            total += log_p[tokens[-1]].item()
        assert found.tokens == tokens[:-1]
        assert found.log_probability == pytest.approx(total)


def pressed(by):
    """A model that ends sooner or later."""
    model = translator()
    with torch.no_grad():
        model.to_logits.bias[BOUNDARY] += by
    return model


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_target_of_max_len_is_ended_at_the_boundarys_probability(k, alpha):
    model, (source, mask) = pressed(-40.0), batch()
    found = beam_search(model, source, mask, boundary=BOUNDARY, max_len=8, beam_size=k, length_penalty=alpha)
    for hypothesis, own, real in zip(found, source, mask, strict=True):
        log_p = log_p_of_next(model, own[real], [hypothesis.tokens])[0]
        total = sum(log_p[i, token].item() for i, token in enumerate((*hypothesis.tokens, BOUNDARY)))
        assert hypothesis.log_probability == pytest.approx(total)
        assert len(hypothesis.tokens) == 8
        assert log_p[-1, BOUNDARY] < -20


def rows_of_each_step(model, monkeypatch):
    """How many rows each step had, and how many contexts each layer then."""
    seen, step = [], model.step

    def counted(tokens, cache):
        seen.append((len(tokens), *{len(layer.context.keys) for layer in cache.layers}))
        return step(tokens, cache)

    monkeypatch.setattr(model, "step", counted)
    return seen


def test_the_end_is_seen_as_soon_as_nothing_can_beat_it(monkeypatch):
    model = pressed(40.0)
    seen = rows_of_each_step(model, monkeypatch)
    found = beam_search(model, *batch(), boundary=BOUNDARY, max_len=8, beam_size=3)
    assert [hypothesis.tokens for hypothesis in found] == [[]] * 4
    assert seen == [(12, 4)]


def test_finished_sources_leave_the_batch_and_contexts_are_never_repeated(monkeypatch):
    model, (source, mask) = translator(seed=3), batch((4, 11, 1, 6, 2, 9, 3))
    search = {"boundary": BOUNDARY, "max_len": 8, "beam_size": 3}
    seen = rows_of_each_step(model, monkeypatch)
    steps = []
    for own, real in zip(source, mask, strict=True):
        beam_search(model, own[real].unsqueeze(0), **search)
        steps.append(len(seen))
        assert set(seen) == {(3, 1)}
        seen.clear()
    beam_search(model, source, mask, **search)
    going_on = [sum(length > i for length in steps) for i in range(max(steps))]
    assert seen == [(3 * sources, sources) for sources in going_on]
    assert len(set(steps)) > 2


def test_a_source_is_translated_alike_in_any_batch():
    """LSH on both sides, which hashes by the length unless its buckets are fixed."""
    model, search = translator(LSH, LSH), {"boundary": BOUNDARY, "max_len": 8, "beam_size": 4}
    source, mask = batch((4, 11, 1, 6, 2))
    together = beam_search(model, source, mask, **search)
    for order in ([0], [2], [4, 2], [3, 0, 2], [4, 3, 2, 1, 0]):
        longest = int(mask[order].sum(1).max())
        found = beam_search(model, source[order, :longest], mask[order, :longest], **search)
        for hypothesis, number in zip(found, order, strict=True):
            assert_found(
                hypothesis, (together[number].score, together[number].log_probability, together[number].tokens)
            )


def test_equals_are_told_apart_alike_each_time_and_in_any_batch():
    model, (source, mask) = translator(), batch()
    nn.init.zeros_(model.to_logits.weight)
    nn.init.zeros_(model.to_logits.bias)
    search = {"boundary": BOUNDARY, "max_len": 5, "beam_size": 3, "length_penalty": 3.0}
    found = beam_search(model, source, mask, **search)
    assert found == beam_search(model, source, mask, **search)
    assert [found[2]] == beam_search(model, source[2:3, :1], **search)


def test_low_precision_is_added_up_in_float32():
    model = translator().bfloat16()
    for hypothesis in beam_search(model, *batch(), boundary=BOUNDARY, max_len=8):
        assert hypothesis.log_probability != torch.tensor(hypothesis.log_probability).bfloat16().item()


def test_no_graph_is_left_behind(monkeypatch):
    model = translator()
    contexts, encode = [], model.encode
    monkeypatch.setattr(model, "encode", lambda *inputs: contexts.append(encode(*inputs)) or contexts[-1])
    beam_search(model, *batch(), boundary=BOUNDARY, max_len=3)
    assert not contexts[0].requires_grad
    assert torch.is_grad_enabled()


class Told(nn.Module):
    """Says the next token's probabilities after each beginning: {"": ..., "a": ..., "ab": ...} of end, a, b.

    After any other beginning, it surely ends. It notes how many rows each step of a search has.
    """

    def __init__(self, **after):
        super().__init__()
        self.after = {"": after.pop("start"), **after}
        self.target_positions = NoPositionalEncoding(100)

    def encode(self, source, mask):
        return torch.zeros(len(source), 1, 1, dtype=torch.float64)

    def new_cache(self, context, mask, *, max_len, targets):
        self.rows = []
        return Beginnings(["" for _ in range(targets * len(context))])

    def step(self, tokens, cache):
        if self.rows:
            cache.texts = [text + "-ab"[token] for text, token in zip(cache.texts, tokens, strict=True)]
        self.rows.append(len(tokens))
        return torch.tensor([self.after.get(text, (1, 0, 0)) for text in cache.texts], dtype=torch.float64).log()


@dataclass
class Beginnings:
    texts: list[str]

    def select_rows(self, rows, sources):
        self.texts = [self.texts[row] for row in rows]


def search_told(told, k, alpha):
    (found,) = beam_search(
        told.eval(), torch.zeros(1, 1).long(), boundary=0, max_len=6, beam_size=k, length_penalty=alpha
    )
    return "".join("-ab"[token] for token in found.tokens), found.log_probability


@pytest.mark.parametrize(("p", "text", "steps"), [(0.59, "aaaaaa", 7), (0.61, "aaaaaa", 7), (0.62, "", 1)])
def test_a_search_ends_where_even_a_sure_and_longest_target_would_lose(p, text, steps):
    """The penalty is 1 of the empty target and 2 of the longest, so this wins if 1 - p is more than p^2: p < 0.618."""
    told = Told(start=(p, 1 - p, 0), **{"a" * n: (0, 1, 0) for n in range(1, 7)} | {"aaaaaa": (1, 0, 0)})
    found, log_p = search_told(told, 2, 1.0)
    assert found == text
    assert log_p == pytest.approx(math.log(1 - p if text else p))
    assert told.rows == [2] * steps


def test_a_source_whose_targets_must_be_short_does_not_wait_for_others():
    """The targets of the test above: the second source's may have but one token, and those would lose at once."""
    told = Told(start=(0.6, 0.4, 0), **{"a" * n: (0, 1, 0) for n in range(1, 6)}).eval()
    source = torch.zeros(2, 1).long()
    search = {"boundary": 0, "beam_size": 2, "length_penalty": 1.0}
    found = beam_search(told, source, max_len=torch.tensor([6, 1]), **search)
    assert [hypothesis.tokens for hypothesis in found] == [[1] * 6, []]
    assert told.rows == [4] + [2] * 6


def test_of_equals_the_one_that_ended_first_is_taken():
    at_once = Told(start=(0.5, 0.5, 0))
    assert search_told(at_once, 2, 0.0) == ("", pytest.approx(math.log(0.5)))
    assert len(at_once.rows) == 1  # the other can be as good, but no better
    later = Told(start=(0.25, 0.5, 0.25), a=(0, 0.5, 0.5))  # "b", as good as "", ends while "a" may still win
    assert search_told(later, 3, 0.0) == ("", pytest.approx(math.log(0.25)))
    assert len(later.rows) == 2


def test_hypotheses_that_end_leave_the_beam_and_it_fills_again():
    """With two hypotheses: "" ends and leaves "a" alone; "aa" and "ab" follow it, though "b" was better than both."""
    told = Told(start=(0.4, 0.35, 0.25), a=(0, 0.6, 0.4), ab=(0, 0.5, 0.5), aa=(0, 0.7, 0.3))
    assert search_told(told, 2, 4.0) == ("aaa", pytest.approx(math.log(0.35 * 0.6 * 0.7)))
    assert search_told(told, 1, 4.0) == ("", pytest.approx(math.log(0.4)))  # greedy search ends with its only one


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_len": 9}, r"max_len is 9, must be in \[1, 8\]: the model has 9 positions, and"),
        ({"max_len": 0}, r"max_len is 0, must be in \[1, 8\]"),
        ({"max_len": torch.tensor([8, 8, 12, 1])}, r"max_len is 12, must be in \[1, 8\]"),
        ({"max_len": torch.tensor([8, 0, 8, 1])}, r"max_len is 0, must be in \[1, 8\]"),
        ({"beam_size": 0}, "beam_size is 0"),
        ({"length_penalty": -0.1}, "length_penalty -0.1"),
    ],
)
def test_what_cannot_be_searched_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        beam_search(translator(), *batch(), **{"boundary": BOUNDARY, "max_len": 8} | changes)


@pytest.mark.parametrize("k", [1, 3])
def test_a_model_without_finite_logits_is_refused(k):
    model = translator()
    model.to_logits.bias.data[3] = torch.nan
    with pytest.raises(NonFinite, match="nan or infinite logits"):
        beam_search(model, batch()[0], boundary=0, max_len=4, beam_size=k)


def test_dropout_is_refused():
    with pytest.raises(ValueError, match=r"model.eval\(\)"):
        beam_search(translator().train(), *batch(), boundary=BOUNDARY, max_len=8)


def test_attention_that_cannot_step_says_so():
    with pytest.raises(ValueError, match="rule='bucket'"):
        beam_search(translator(FULL, LSH | {"rule": "chunk"}), *batch(), boundary=BOUNDARY, max_len=8)
