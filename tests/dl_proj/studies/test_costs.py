"""performance_studies.py: what is measured is what the rows say, in an order in which nothing spoils the next."""

import pytest
import torch
from torch import nn

import dl_proj.studies.costs as cost_studies
from dl_proj.studies.cost_settings import DepthConfig, LengthConfig, LinformerStudyConfig, ModelStudyConfig
from dl_proj.studies.costs import Case, by_depth, by_length, by_rank, of_models
from my_transformers import FullAttention, LinformerAttention, LSHAttention, ReversibleStack

CPU = torch.device("cpu")
MIB = 2**20
FULL = {"label": "full", "attention": {"kind": "full"}}
SIZES = {"dim": 8, "heads": 2, "tokens": 128}


class Probe(nn.Module):
    """Multiplies by its weight, and remembers how it was called."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))
        self.seen = []

    def forward(self, *inputs):
        self.seen.append((self.training, torch.is_grad_enabled(), [x.shape for x in inputs]))
        return self.weight * inputs[-1]


def probe(length=100):
    x = torch.ones(2, length, 4).requires_grad_()
    return Case(Probe(), (x,), torch.full_like(x, 2.0))


def test_inference_and_training():
    case, gradients = probe(), []
    for tensor in (case.module.weight, *case.inputs):
        tensor.register_post_accumulate_grad_hook(lambda t: gradients.append(t.grad.clone()))
    case.calls()["forward"]()
    assert case.module.seen == [(False, False, [(2, 100, 4)])]
    case.calls()["train"]()
    assert case.module.seen[1:] == [(True, True, [(2, 100, 4)])]
    assert sorted(g.numel() for g in gradients) == [1, 800]
    assert {g.max().item() for g in gradients} == {2 * 800.0, 2 * 3.0}
    assert case.module.weight.grad is None and case.inputs[0].grad is None, "nothing is left"


def test_the_small_call_before():
    case = probe()
    for call in case.start().calls().values():
        call()
    assert [shapes for *_, shapes in case.module.seen] == [[(1, 64, 4)]] * 2
    assert case.inputs[0].grad is None


@pytest.fixture
def faked(monkeypatch):
    """Costs that are known, and the log of what was asked for."""
    log = []

    def process_peak(call):
        log.append(("process", call.__name__))
        call()
        return 5 * MIB

    def seconds_of(call, device, *, calls, warm_up):
        log.append(("seconds", call.__name__, calls, warm_up))
        return [1.0, 4.0, 2.0]

    def allocated_peak(call, device):
        log.append(("allocated", call.__name__))
        return 3 * MIB

    def in_fresh_process(function, *args):
        log.append(("fresh",))
        return function(*args)

    monkeypatch.setattr(cost_studies, "in_fresh_process", in_fresh_process)
    for fake in (process_peak, seconds_of, allocated_peak):
        monkeypatch.setattr(cost_studies, fake.__name__, fake)
    return log


def test_rows_by_length(faked):
    variants = [FULL | {"max_length": 32}, {"label": "LSH", "attention": {"kind": "lsh", "bucket_size": 8}}]
    rows = by_length(LengthConfig(**SIZES, lengths=[16, 64], calls=3, variants=variants), 0, CPU)
    cost = {"seconds": 2.0, "seconds_min": 1.0, "seconds_max": 4.0, "allocated_mib": 3.0, "process_mib": 5.0}
    assert rows == [
        {"curve": curve, "length": length, "batch": 128 // length, "mode": mode, **cost}
        for curve, length in (("full", 16), ("LSH", 16), ("LSH", 64))
        for mode in ("forward", "train")
    ]


def test_each_mode_has_a_process_that_is_measured_first(faked):
    by_length(LengthConfig(**SIZES, lengths=[16], calls=3, variants=[FULL]), 0, CPU)
    assert faked == [
        step
        for mode in ("forward", "train")
        for step in (("fresh",), ("process", mode), ("seconds", mode, 3, 0), ("allocated", mode))
    ]


@pytest.fixture
def watched(monkeypatch):
    """Modules that were measured, with the shapes of their inputs and of the output's gradient."""
    cases = []

    class Watched(Case):
        def __init__(self, *args):
            super().__init__(*args)
            cases.append(self)

    monkeypatch.setattr(cost_studies, "Case", Watched)
    return cases


def shapes(case):
    return [tuple(x.shape) for x in case.inputs], tuple(case.gradient.shape)


def test_a_layer_is_the_variants(faked, watched):
    variants = [
        FULL | {"causal": True},
        {"label": "LSH", "attention": {"kind": "lsh", "bucket_size": 8, "n_rounds": 3}},
    ]
    by_length(LengthConfig(**SIZES, lengths=[32], variants=variants), 0, CPU)
    full, lsh = watched[0], watched[4]  # each twice, each time with its small call
    assert isinstance(full.module.mechanism, FullAttention) and full.module.mechanism.causal
    assert isinstance(lsh.module.mechanism, LSHAttention) and not lsh.module.mechanism.causal
    assert (lsh.module.mechanism.bucket_size, lsh.module.mechanism.n_rounds) == (8, 3)
    assert (full.module.heads, full.module.head_dim) == (2, 4)
    assert shapes(full) == shapes(lsh) == ([(4, 32, 8)], (4, 32, 8))
    assert full.inputs[0].requires_grad, "in a model there are layers below"
    assert full.inputs[0].std().item() == pytest.approx(1, abs=0.1)


def test_what_a_linformer_saves(faked, watched, monkeypatch):
    times, peaks = iter([8.0, 2.0, 9.0, 3.0, 4.5]), iter([6, 3, 10, 2, 4])
    monkeypatch.setattr(cost_studies, "seconds_of", lambda *_, **__: [next(times)])
    monkeypatch.setattr(cost_studies, "allocated_peak", lambda *_: next(peaks) * MIB)
    rows = by_rank(LinformerStudyConfig(**SIZES, lengths=[16, 32], ranks=[8, 16], depth=3), 0, CPU)
    table = [(row["length"], row["rank"], row["batch"], row["speed_up"], row["memory_saving"]) for row in rows]
    assert table == [(16, None, 8, 1, 1), (16, 8, 8, 4, 2), (32, None, 4, 1, 1), (32, 8, 4, 3, 5), (32, 16, 4, 2, 2.5)]
    for case, row in zip(watched, rows, strict=True):
        mechanisms = [layer.attention.mechanism for layer in case.module.layers]
        assert len(mechanisms) == 3
        assert shapes(case)[0] == [(row["batch"], row["length"], 8)]
        if row["rank"] is None:
            assert all(isinstance(mechanism, FullAttention) for mechanism in mechanisms)
        else:
            assert all(isinstance(mechanism, LinformerAttention) for mechanism in mechanisms)
            own = sum(p.numel() for p in case.module.parameters()) - sum(
                p.numel() for p in watched[0].module.parameters()
            )
            assert own == row["rank"] * row["length"], "one projection for keys and values of all layers"


def test_it_is_inference_that_a_linformer_speeds_up(faked):
    by_rank(LinformerStudyConfig(**SIZES, lengths=[16], ranks=[8], calls=4), 0, CPU)
    assert faked == [("seconds", "forward", 4, 1), ("allocated", "forward")] * 2


def test_a_stack_is_the_variants(faked, watched):
    variants = [FULL | {"causal": True}, FULL | {"label": "both ways"}]
    by_depth(DepthConfig(**SIZES, lengths=[16, 32], depths=[2], variants=variants), 0, CPU)
    cases = [(c, kind, n) for c in (True, False) for kind in ("plain", "recomputed", "reversible") for n in (16, 32)]
    for case, (causal, kind, length) in zip(watched, cases, strict=True):
        assert isinstance(case.module, ReversibleStack) == (kind == "reversible")
        assert getattr(case.module, "recompute", False) == (kind == "recomputed")
        assert [layer.attention.mechanism.causal for layer in case.module.layers] == [causal] * 2
        assert shapes(case) == ([(128 // length, length, 8)], (128 // length, length, 8))
    assert set(faked) == {("allocated", "train")}


def test_memory_by_depth():
    lsh = {"label": "LSH", "attention": {"kind": "lsh", "bucket_size": 32, "n_rounds": 1}}
    config = DepthConfig(lengths=[64], tokens=512, dim=8, heads=2, depths=[1, 3, 5], variants=[FULL, lsh])
    rows = by_depth(config, 0, CPU)
    curves = {}
    for row in rows:
        assert (row["length"], row["batch"]) == (64, 8)
        curves.setdefault(row["curve"], []).append(row)
    kinds = ("", ", recomputed", ", reversible")
    assert list(curves) == [f"{label}{kind}" for label in ("full", "LSH") for kind in kinds]
    activations = 512 * 8 * 4 / MIB  # of one (b, n, dim)
    for curve, own in curves.items():
        assert [row["depth"] for row in own] == [1, 3, 5]
        one, three, five = (row["allocated_mib"] for row in own)
        if "reversible" in curve:
            gradients = own[2]["gradients_mib"] - own[1]["gradients_mib"]
            buckets = 2 * 8 * 2 * 64 * 4 if "LSH" in curve else 0
            states = 2 * 2 * torch.get_rng_state().nbytes  # of the generator, a branch
            assert five - three <= gradients + 1.05 * (buckets + states) / MIB, "no activations"
        elif "recomputed" in curve:
            gradients = own[2]["gradients_mib"] - own[1]["gradients_mib"]
            buckets = 2 * 8 * 2 * 64 * 4 if "LSH" in curve else 0
            states = 2 * torch.get_rng_state().nbytes  # of the generator, a layer
            assert five - three <= 2 * activations + gradients + 1.05 * (buckets + states) / MIB, "a layer's input"
        else:
            assert five - three == pytest.approx(three - one, rel=0.05), "as much each layer"
            assert five - three > 2 * 10 * activations, "inputs of both norms, q, k, v, output, four times dim twice"
        projections = 2 if "LSH" in curve else 3
        layer = (projections + 1) * (8 * 8 + 8) + 2 * 8 * 32 + 32 + 8 + 4 * 8
        assert [row["gradients_mib"] * MIB / 4 for row in own] == [depth * layer + 2 * 8 for depth in (1, 3, 5)]


VARIANTS = [
    {"label": "full"},
    {
        "label": "cheap",
        "encoder_attention": {"kind": "linformer", "rank": 4},
        "decoder_attention": {"kind": "shared_qk"},
        "cross_attention": {"kind": "performer", "n_features": 8},
        "max_length": 16,
    },
]


def test_whole_models(faked, watched):
    config = ModelStudyConfig(**SIZES, lengths=[16, 32], vocab_size=5, depth=3, variants=VARIANTS)
    rows = of_models(config, 0, CPU)
    kinds = [("full", 16), ("full", 32), ("full, reversible", 16), ("full, reversible", 32)]
    kinds += [("cheap", 16), ("cheap, reversible", 16)]
    cost = {"seconds": 2.0, "seconds_min": 1.0, "seconds_max": 4.0, "allocated_mib": 3.0}
    cases = [(name, *kind) for name in ("encoder_only", "encoder_decoder") for kind in kinds]
    assert rows == [
        {"architecture": name, "curve": curve, "length": n, "batch": 128 // n, "mode": mode, **cost}
        for name, curve, n in cases
        for mode in ("forward", "train")
    ]
    for case, (name, curve, n) in zip(watched, cases, strict=True):
        sides = 1 if name == "encoder_only" else 2
        assert shapes(case) == ([(128 // n, n)] * sides, (128 // n, n, 5))
        assert {x.min().item() for x in case.inputs} == {0} and {x.max().item() for x in case.inputs} == {4}
        kinds = [type(module).__name__ for module in case.module.modules()]
        own = (
            ["FullAttention"] if "full" in curve else ["LinformerAttention", "SharedQKAttention", "PerformerAttention"]
        )
        for mechanism in own if sides == 2 else own[:1]:
            assert kinds.count(mechanism) == 3 * (3 if sides == 2 and "full" in curve else 1), (name, curve)
        assert any("Reversible" in kind for kind in kinds) == ("reversible" in curve)
        case.forward(), case.train()


def test_reversible_models_take_less():
    config = ModelStudyConfig(**SIZES, lengths=[32], depth=6, calls=1, variants=[{"label": "full"}])
    peaks = {
        (row["architecture"], row["curve"], row["mode"]): row["allocated_mib"] for row in of_models(config, 0, CPU)
    }
    for name in ("encoder_only", "encoder_decoder"):
        plain, reversible = (peaks[name, curve, "train"] for curve in ("full", "full, reversible"))
        assert plain > 2 * reversible
        assert peaks[name, "full", "forward"] < reversible
