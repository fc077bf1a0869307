import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from my_transformers import LSHAttention, reference
from my_transformers.lsh import bucketed, layout
from my_transformers.lsh.attention import attend_in_buckets
from my_transformers.lsh.backward import attend_backward
from my_transformers.lsh.bucketed import unit
from my_transformers.lsh.scores import is_kept

RULES = [("bucket", False), ("chunk", False), ("chunk", True)]


def draw(n: int, seed: int, n_rounds: int = 3, n_buckets: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """qk (2, 2, n, 6), v (2, 2, n, 5) and buckets (2, 2, r, n), of which the last ones are the fullest."""
    generator = torch.Generator().manual_seed(seed)
    qk = torch.randn(2, 2, n, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    v = torch.randn(2, 2, n, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    skewed = torch.randint(0, n_buckets**2, (2, 2, n_rounds, n), generator=generator).sqrt().int()
    return qk, v, skewed


def by_definition(
    qk: torch.Tensor,
    v: torch.Tensor,
    buckets: torch.Tensor,
    mask: torch.Tensor,
    window: int,
    *,
    causal: bool,
    rule: str,
    across: bool,
    deduplicate: bool,
) -> torch.Tensor:
    """reference.lsh_attention, and variants it leaves out: repeated keys in the bucket rule, chunks across buckets."""
    places = reference.sorted_places(buckets, mask)
    rule = reference.bucket_rule if rule == "bucket" else reference.chunk_rule
    shown = rule(torch.zeros_like(buckets) if across else buckets, places, window)
    visible = reference.visible_keys(qk.shape[2], mask, causal=causal)
    return reference.attention_over_rounds(qk, v, shown, visible, once=deduplicate)


@pytest.mark.parametrize(("rule", "across"), RULES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("deduplicate", [False, True])
@settings(max_examples=12, deadline=None)
@given(
    n=st.integers(1, 40),
    window=st.integers(1, 50),
    seed=st.integers(0, 999),
    scores=st.sampled_from([1, 2000]),
    rows=st.sampled_from([1, 90, 10_000]),
)
def test_equals_the_definition(
    rule: str, across: bool, causal: bool, deduplicate: bool, n: int, window: int, seed: int, scores: int, rows: int
) -> None:
    """Output and gradients, padding included, also where the work is cut into single blocks and sequences."""
    qk, v, buckets = draw(n, seed)
    padding = torch.rand(2, n, generator=torch.Generator().manual_seed(seed)) < 0.2
    padding[:, 0] = False
    marked = buckets.masked_fill(padding[:, None, None, :], 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "_SCORES_IN_WORK", scores)
        patch.setattr(layout, "_ROWS_IN_WORK", rows)
        ours = attend_in_buckets(
            qk,
            v,
            marked,
            n_buckets=4,
            window=window,
            causal=causal,
            rule=rule,
            attend_across_buckets=across,
            deduplicate=deduplicate,
        )
        theirs = by_definition(
            qk, v, buckets, ~padding, window, causal=causal, rule=rule, across=across, deduplicate=deduplicate
        )
        real = ~padding[:, None, :, None]
        weights = torch.randn_like(v) * real
        ours_grad = torch.autograd.grad(ours, (qk, v), weights)
    theirs_grad = torch.autograd.grad(theirs, (qk, v), weights)
    torch.testing.assert_close(ours * real, theirs * real, rtol=1e-9, atol=1e-9)
    for a, b in zip(ours_grad, theirs_grad, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "arrangement", ["heads side by side", "heads in front", "part of a larger one", "features apart"]
)
@pytest.mark.parametrize("n", [16, 13])
def test_the_layout_in_memory_makes_no_difference(arrangement: str, n: int) -> None:
    """Rows are gathered from where they lie; 13 tokens do not fill their blocks."""
    qk, v, buckets = draw(n, 0)
    arranged = {
        "heads side by side": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        "heads in front": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        "part of a larger one": lambda x: torch.cat((x, x), dim=-1)[..., : x.shape[-1]],
        "features apart": lambda x: x.mT.contiguous().mT,
    }[arrangement]
    settings = {"n_buckets": 4, "window": 8, "causal": False}
    outs = [attend_in_buckets(*inputs, buckets, **settings) for inputs in ((qk, v), (arranged(qk), arranged(v)))]
    weights = torch.randn_like(v)
    for grad_out in (weights, arranged(weights)):
        for a, b in zip(*(torch.autograd.grad(out, (qk, v), grad_out, retain_graph=True) for out in outs), strict=True):
            assert torch.equal(a, b)
    assert torch.equal(*outs)


def saved_bytes(n: int, window: int, n_rounds: int, dropout: float = 0.0) -> int:
    """What a forward keeps for backward."""
    qk, v, _ = (torch.randn(1, 2, n, 16, requires_grad=True) for _ in range(3))
    buckets = torch.randint(0, 4, (1, 2, n_rounds, n))
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        attend_in_buckets(qk, v, buckets, n_buckets=4, window=window, causal=True, dropout=dropout)
    return sum(kept.values())


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_backward_keeps_no_probabilities(dropout: float) -> None:
    """What is saved grows with length x dim: not with the window, and by three integers a round."""
    n = 1024
    small = saved_bytes(n, window=16, n_rounds=2, dropout=dropout)
    assert saved_bytes(n, window=512, n_rounds=2, dropout=dropout) == small
    assert saved_bytes(2 * n, window=16, n_rounds=2, dropout=dropout) == 2 * small
    rows = 2 * n  # of two heads
    assert saved_bytes(n, window=16, n_rounds=3, dropout=dropout) == small + rows * 3 * 4
    qk_v_out, log_sum_exp, visible_places, seeds = (
        rows * 3 * 16 * 4,
        rows * 4,
        rows * 2 * 3 * 4,
        rows * 8 * bool(dropout),
    )
    is_finite = rows
    assert small == qk_v_out + log_sum_exp + visible_places + seeds + is_finite


def test_dropout_equals_the_formula_with_the_same_pairs_dropped() -> None:
    qk, v, _ = draw(30, 0)
    torch.manual_seed(3)
    seeds = torch.randint(*_int32(), (2, 2 * 2 * 30), dtype=torch.int32).view(2, 2, 2, 30)
    torch.manual_seed(3)
    buckets = torch.zeros(2, 2, 3, 30, dtype=torch.int32)
    ours = attend_in_buckets(qk, v, buckets, n_buckets=1, window=30, causal=True, dropout=0.4)
    kept = is_kept(seeds[0].unsqueeze(-1), seeds[1].unsqueeze(-2), 0.4).double() / 0.6
    visible = torch.ones(30, 30).tril(-1).bool()
    visible[0, 0] = True
    kept[:, :, 0, 0] = 1  # the lonely first token is not dropped
    scores = (qk @ unit(qk).mT / 6**0.5).masked_fill(~visible, -torch.inf)
    theirs = (scores.softmax(-1) * kept) @ v
    weights = torch.randn_like(v)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours, (qk, v), weights), torch.autograd.grad(theirs, (qk, v), weights), strict=True
    ):
        torch.testing.assert_close(a, b)


def _int32() -> tuple[int, int]:
    return torch.iinfo(torch.int32).min, torch.iinfo(torch.int32).max


def test_unit_has_length_one_and_survives_zero() -> None:
    x = torch.randn(5, 7, dtype=torch.float16) * 100
    torch.testing.assert_close(unit(x).float().norm(dim=-1), torch.ones(5), rtol=2e-3, atol=0)
    assert torch.equal(unit(torch.zeros(2, 3)), torch.zeros(2, 3))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck's own
def test_operators_pass_opcheck(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shapes, strides and aliases that they promise the compiler are true, also where sizes are symbols."""
    forward, calls = bucketed.attend_forward, []
    monkeypatch.setattr(bucketed, "attend_forward", lambda *given: calls.append(given) or forward(*given))
    qk, v = (x.requires_grad_() for x in torch.randn(2, 2, 2, 21, 8, dtype=torch.float64))
    LSHAttention(bucket_size=4, n_rounds=2, causal=True, dropout=0.2)(qk, v)
    torch.library.opcheck(forward, calls[0])
    (*tensors, is_nan), settings = [x.detach() for x in calls[0][:8]], calls[0][8:]
    out, log_sum_exp = forward(*tensors, is_nan, *settings)
    torch.library.opcheck(attend_backward, (torch.randn_like(out), *tensors, out, log_sum_exp, *settings))
