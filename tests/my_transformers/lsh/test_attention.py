import pytest
import torch
from reformer_pytorch.reformer_pytorch import LSHSelfAttention

from my_transformers import LSHAttention, MultiHeadAttention, SharedQKAttention
from my_transformers.lsh import attention as lsh


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("deduplicate", [False, True])
@pytest.mark.parametrize("settings", [{"bucket_size": 64, "max_len": 41}, {"n_buckets": 1, "window": 41}])
def test_one_bucket_is_full_shared_query_key_attention(causal: bool, deduplicate: bool, settings: dict) -> None:
    """Exact in the limit, with padding, for every head."""
    qk, v = torch.randn(2, 2, 3, 41, 8, dtype=torch.float64).unbind(0)
    mask = (torch.rand(41) < 0.8).expand(2, -1)
    mechanism = LSHAttention(**settings, n_rounds=3, causal=causal, deduplicate=deduplicate)
    ours, full = mechanism(qk, v, mask=mask), SharedQKAttention(causal=causal)(qk, v, mask=mask)
    torch.testing.assert_close(ours.mT[..., mask[0]], full.mT[..., mask[0]], rtol=0, atol=1e-12)


def test_more_rounds_come_closer_to_full_attention() -> None:
    qk, v = torch.randn(2, 4, 4, 256, 16, dtype=torch.float64).unbind(0)
    qk = 4 * qk
    full = SharedQKAttention(causal=True)(qk, v)
    errors = [
        (LSHAttention(bucket_size=32, n_rounds=r, max_len=256, causal=True).eval()(qk, v) - full).square().mean().item()
        for r in (1, 4, 16, 64)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05 * errors[0]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("deduplicate", [False, True])
@pytest.mark.parametrize("across", [False, True])
def test_parity_with_reformer_pytorch(
    causal: bool, deduplicate: bool, across: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunk rule with the same weights and rotations, outputs and gradients.

    Across buckets that library lets the first chunk of a round look back into the last chunk of the round before
    (the paper does not), so there the tokens that no round puts into its first chunk are compared.
    """
    n, bucket_size, n_rounds, dim, heads = 64, 8, 3, 24, 3
    theirs = LSHSelfAttention(
        dim,
        heads=heads,
        bucket_size=bucket_size,
        n_hashes=n_rounds,
        causal=causal,
        attend_across_buckets=across,
        allow_duplicate_attention=not deduplicate,
    ).double()
    mechanism = LSHAttention(
        bucket_size=bucket_size,
        n_rounds=n_rounds,
        max_len=n,
        window=bucket_size,
        causal=causal,
        rule="chunk",
        attend_across_buckets=across,
        deduplicate=deduplicate,
    )
    ours = MultiHeadAttention(mechanism, dim=dim, heads=heads).double()
    with torch.no_grad():
        scaled = theirs.toqk.weight / (dim // heads) ** 0.5  # which ours multiplies, and theirs divides scores by
        ours.to_heads.weight.copy_(torch.cat((scaled, theirs.tov.weight)))
        ours.to_heads.bias.zero_()
        ours.to_out.load_state_dict(theirs.to_out.state_dict())
    rotations = torch.randn(1, dim // heads, n_rounds, n // bucket_size // 2, dtype=torch.float64)
    x = torch.randn(2, n, dim, dtype=torch.float64, requires_grad=True)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn", lambda *_, **__: rotations)
        their_out = theirs(x)
    monkeypatch.setattr(
        mechanism, "_rotations", lambda *_: rotations.permute(0, 2, 1, 3).expand(heads, -1, -1, -1).contiguous()
    )
    our_out = ours(x)
    compared = torch.ones(2, n, dtype=torch.bool)
    if across:
        compared = _never_in_the_first_chunk(ours, x, rotations, bucket_size)
        assert compared.sum() > 10
    torch.testing.assert_close(our_out[compared], their_out[compared], rtol=1e-7, atol=1e-7)
    weights = torch.randn_like(our_out) * compared.unsqueeze(-1)
    (our_grad,), (their_grad,) = (torch.autograd.grad(out, x, weights) for out in (our_out, their_out))
    torch.testing.assert_close(our_grad, their_grad, rtol=1e-6, atol=1e-7)


def _never_in_the_first_chunk(
    attention: MultiHeadAttention, x: torch.Tensor, rotations: torch.Tensor, chunk: int
) -> torch.Tensor:
    (qk,) = attention._project(x, 0, 1)
    projected = torch.einsum("bhnd,drk->bhrnk", qk, rotations[0])
    buckets = torch.cat((projected, -projected), -1).argmax(-1)
    place = buckets.argsort(dim=-1, stable=True).argsort(dim=-1)
    return (place >= chunk).all(dim=2).all(dim=1)


def test_number_of_buckets_follows_the_sequence_not_a_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without causal: 195 tokens get 8 buckets, however many a model could take."""
    seen = []
    original = lsh.attend_in_buckets
    monkeypatch.setattr(lsh, "attend_in_buckets", lambda *a, **k: seen.append(k["n_buckets"]) or original(*a, **k))
    mechanism = LSHAttention(bucket_size=28)
    for n in (20, 28, 29, 195, 1000):
        mechanism(*torch.randn(2, 1, 1, n, 4).unbind(0))
    assert seen == [1, 1, 2, 8, 36]


def test_training_draws_fresh_rotations_unless_fixed_and_evaluation_never() -> None:
    qk, v = 3 * torch.randn(2, 1, 2, 64, 8).unbind(0)[0], torch.randn(1, 2, 64, 8)
    fresh = LSHAttention(bucket_size=8, n_rounds=1)
    assert not torch.equal(fresh(qk, v), fresh(qk, v))
    fixed = LSHAttention(bucket_size=8, n_rounds=1, fresh_rotations=False, seed=1)
    assert torch.equal(fixed(qk, v), fixed(qk, v))
    assert torch.equal(fixed(qk, v), fixed.eval()(qk, v))
    assert torch.equal(fresh.eval()(qk, v), fresh(qk, v))
    other = LSHAttention(bucket_size=8, n_rounds=1, seed=2).eval()
    assert not torch.equal(other(qk, v), fixed(qk, v))


def test_evaluation_rounds_differ_from_training_rounds() -> None:
    qk, v = torch.randn(2, 1, 2, 64, 8).unbind(0)
    few_then_many = LSHAttention(bucket_size=8, n_rounds=1, eval_rounds=6, fresh_rotations=False)
    one, six = (LSHAttention(bucket_size=8, n_rounds=r, fresh_rotations=False) for r in (1, 6))
    assert torch.equal(few_then_many.train()(qk, v), one(qk, v))
    assert torch.equal(few_then_many.eval()(qk, v), six(qk, v))


def test_deduplication_matters_where_rounds_repeat() -> None:
    qk, v = torch.randn(2, 1, 1, 64, 8).unbind(0)
    once, often = (LSHAttention(bucket_size=8, n_rounds=4, deduplicate=d).eval()(qk, v) for d in (True, False))
    assert (once - often).abs().max() > 1e-3


@pytest.mark.parametrize("n_rounds", [1, 4])
def test_a_step_reads_only_its_buckets(n_rounds: int) -> None:
    """A step's work does not grow with the length: it gathers n_rounds * window keys of the cache."""
    mechanism = LSHAttention(n_buckets=4, window=5, n_rounds=n_rounds, causal=True).eval()
    qk, v = torch.randn(2, 1, 1, 100, 8).unbind(0)
    cache = mechanism.new_cache(qk, 100)
    for t in range(100):
        tokens, seen, _, _ = cache.look_up(qk[:, :, t : t + 1], deduplicate=True)
        assert tokens.shape == seen.shape == (1, 1, n_rounds * 5)
        mechanism.step(qk[:, :, t : t + 1], v[:, :, t : t + 1], cache)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bucket_size": 0}, "bucket_size is 0"),
        ({"n_rounds": 0}, "n_rounds is 0"),
        ({"window": 0}, "window is 0"),
        ({"eval_rounds": 0}, "eval_rounds is 0"),
        ({"n_buckets": 3}, "n_buckets is 3"),
        ({"n_buckets": -2}, "n_buckets is -2"),
        ({"rule": "nope"}, "rule is 'nope'"),
        ({"attend_across_buckets": True}, "needs rule='chunk'"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_contradictory_settings_raise(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LSHAttention(**settings)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padded", [[5], [23], [0, 1, 2], [3, 9, 10, 17]], ids=str)
@pytest.mark.parametrize("spoilt", [0, 1], ids=["qk", "v"])
def test_padding_that_is_not_finite_stays_invisible(causal: bool, padded: list[int], spoilt: int) -> None:
    """Also where a padded token is alone, and gives its own value: the output and both gradients of the others."""
    attention = LSHAttention(bucket_size=4, n_rounds=2, causal=causal, max_len=24).eval()
    mask = torch.ones(1, 24, dtype=torch.bool)
    mask[0, padded] = False
    clean = [torch.randn(1, 2, 24, 8, dtype=torch.float64) for _ in range(2)]
    dirty = [x.clone() for x in clean]
    dirty[spoilt][0, 1, padded, 3] = torch.nan
    found = []
    for pair in (clean, dirty):
        qk, v = (x.requires_grad_() for x in pair)
        out = attention(qk, v, mask=mask)[:, :, mask[0]]
        found.append([out, *(g for g in torch.autograd.grad(out.square().sum(), [qk, v]))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
