import pytest
import torch
from reformer_pytorch.reformer_pytorch import LSHSelfAttention

from my_transformers import MultiHeadAttention, SharedQKAttention, TransformersLSHAttention
from my_transformers.lsh import transformers as transformers_lsh
from my_transformers.lsh.hashing import bucket_of
from my_transformers.lsh.transformers import attend_in_circle, bucket_by_factors
from my_transformers.replay import Recording

KEPT = {"rotations": torch.zeros(2, 4, 8, 2), "n_buckets": 4}


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("n", [3, 8, 9, 16, 21, 40])
@pytest.mark.parametrize("multiple_of", [8, 24])
def test_chunks_in_a_circle_by_the_formula(causal: bool, n: int, multiple_of: int) -> None:
    """Every row of a matrix for each round, filled key by key; padding ends each round."""
    qk, v = torch.randn(2, 1, 1, n, 6, dtype=torch.float64).unbind(0)
    buckets = torch.randint(0, 4, (1, 1, 3, n))
    mask = torch.rand(n) < 0.8
    mask[0] = True
    marked = buckets.masked_fill(~mask, 4)
    epsilon = 0.7
    ours = attend_in_circle(
        qk, v, marked, n_buckets=4, chunk_size=8, multiple_of=multiple_of, causal=causal, epsilon=epsilon
    )
    length = n if n <= 8 else -(-n // multiple_of) * multiple_of
    q, keys = qk[0, 0], qk[0, 0] / (qk[0, 0].square().sum(-1, keepdim=True) + epsilon).sqrt()
    scores = q @ keys.T / 6**0.5
    row = []  # (round, token) in the order of the circle
    for r in range(1 if n <= 8 else 3):
        of_round = {t: marked[0, 0, r, t].item() if t < n else 4 for t in range(length)}
        row += [(r, t) for t in sorted(of_round, key=lambda t: (of_round[t], t))]
    times = torch.zeros(n, n, dtype=torch.float64)  # how often a query sees a key
    chunks = max(1, len(row) // 8)
    for place, (_, i) in enumerate(row):
        for other, (_, j) in enumerate(row):
            near = n <= 8 or place // 8 == other // 8 or (place // 8 - 1) % chunks == other // 8
            if near and i < n and j < n and mask[j] and i != j and (j < i or not causal):
                times[i, j] += 1
    alone = times.sum(-1) == 0
    times += torch.diag(alone.double())
    theirs = (scores + times.log()).softmax(-1) @ v[0, 0]
    torch.testing.assert_close(ours[0, 0, mask], theirs[mask])


@pytest.mark.parametrize("causal", [False, True])
def test_parity_with_reformer_pytorch(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose chunks across buckets are a circle too: the same weights and rotations, outputs and gradients."""
    n, chunk_size, n_rounds, dim, heads = 64, 8, 3, 24, 3
    theirs = LSHSelfAttention(
        dim,
        heads=heads,
        bucket_size=chunk_size,
        n_hashes=n_rounds,
        causal=causal,
        attend_across_buckets=True,
        allow_duplicate_attention=True,
    ).double()
    drawn = torch.randn(1, dim // heads, n_rounds, n // chunk_size // 2, dtype=torch.float64)
    rotations = drawn.transpose(1, 2).expand(heads, -1, -1, -1)
    mechanism = TransformersLSHAttention(
        chunk_size=chunk_size, n_rounds=n_rounds, n_buckets=n // chunk_size, causal=causal, rotations=rotations
    )
    ours = MultiHeadAttention(mechanism, dim=dim, heads=heads, bias=False).double()
    with torch.no_grad():
        scaled = theirs.toqk.weight / (dim // heads) ** 0.5  # which ours multiplies, and theirs divides scores by
        ours.to_heads.weight.copy_(torch.cat((scaled, theirs.tov.weight)))
        ours.to_out.weight.copy_(theirs.to_out.weight)
        theirs.to_out.bias.zero_()
    x = torch.randn(2, n, dim, dtype=torch.float64, requires_grad=True)
    monkeypatch.setattr(torch, "randn", lambda *_, **__: drawn)
    outs = ours(x), theirs(x)
    torch.testing.assert_close(*outs, rtol=1e-7, atol=1e-7)
    (our_grad,), (their_grad,) = (torch.autograd.grad(out.square().sum(), x) for out in outs)
    torch.testing.assert_close(our_grad, their_grad, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [1, 20, 40])
def test_one_chunk_is_full_shared_query_key_attention(causal: bool, n: int) -> None:
    qk, v = torch.randn(2, 2, 3, n, 8, dtype=torch.float64).unbind(0)
    mask = (torch.rand(n) < 0.8).expand(2, -1)
    ours = TransformersLSHAttention(chunk_size=40, n_rounds=3, causal=causal)(qk, v, mask=mask)
    full = SharedQKAttention(causal=causal)(qk, v, mask=mask)
    torch.testing.assert_close(ours.mT[..., mask[0]], full.mT[..., mask[0]], rtol=0, atol=1e-12)


def test_the_chunks_of_a_crowded_bucket_leak_as_documented() -> None:
    qk, v = torch.randn(2, 1, 2, 64, 8, dtype=torch.float64).unbind(0)
    qk = qk[:, :, :1] + 0.01 * qk
    mechanism = TransformersLSHAttention(chunk_size=4, n_rounds=2, n_buckets=4, causal=True).eval()
    out = mechanism(qk, v)
    changed = mechanism(torch.cat((qk[:, :, :37], -qk[:, :, 37:]), dim=2), v)
    assert (changed[:, :, :37] - out[:, :, :37]).abs().max() > 1e-3


@pytest.mark.parametrize(("chunk_size", "n", "expected"), [(8, 4, 1), (8, 5, 2), (8, 64, 16), (9, 60, 16), (1, 3, 4)])
def test_a_chunk_holds_two_buckets(chunk_size: int, n: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An even number of them, where nothing else is said."""
    seen = []
    mechanism = TransformersLSHAttention(chunk_size=chunk_size)
    original = mechanism._rotations
    monkeypatch.setattr(mechanism, "_rotations", lambda qk, n: seen.append(n) or original(qk, n))
    mechanism(*torch.randn(2, 1, 1, n, 4).unbind(0))
    assert seen == [expected]


def test_buckets_by_factors_are_digits() -> None:
    """Of factors 6, 2 and 4 the bucket is a + 6 b + 12 c, each an angular bucket of its own directions."""
    qk, rotations = torch.randn(2, 3, 200, 5), torch.randn(3, 2, 5, 6)
    a, b, c = (bucket_of(qk, part).long() for part in (rotations[..., :3], rotations[..., 3:4], rotations[..., 4:]))
    found = bucket_by_factors(qk, rotations, (6, 2, 4))
    assert found.dtype == torch.int32
    assert torch.equal(found.long(), a + 6 * b + 12 * c)
    assert len(found.unique()) == 48
    assert torch.equal(bucket_by_factors(qk, rotations, (12,)), bucket_of(qk, rotations))


def test_training_draws_fresh_rotations_and_evaluation_never() -> None:
    qk, v = torch.randn(2, 1, 2, 64, 8).unbind(0)
    one, other = (TransformersLSHAttention(chunk_size=8, n_rounds=1, seed=seed) for seed in (1, 2))
    assert not torch.equal(one(qk, v), one(qk, v))
    assert torch.equal(one.eval()(qk, v), one(qk, v))
    assert not torch.equal(one(qk, v), other.eval()(qk, v))


@pytest.mark.parametrize(("buckets", "directions"), [({"n_buckets": 8}, 4), ({"bucket_factors": (6, 4)}, 5)])
def test_rotations_that_are_given_are_used_always(buckets: dict, directions: int) -> None:
    qk, v = torch.randn(2, 2, 2, 40, 8).unbind(0)
    rotations = torch.randn(2, 4, 8, directions)
    mechanism = TransformersLSHAttention(chunk_size=8, rotations=rotations, **buckets)
    factors = buckets.get("bucket_factors", (8,))
    found = bucket_by_factors(qk, rotations, factors)
    expected = attend_in_circle(qk, v, found, n_buckets=24, chunk_size=8, multiple_of=8, causal=False)
    for training in (True, False):
        assert torch.equal(mechanism.train(training)(qk, v), expected)
    assert torch.equal(mechanism.state_dict()["rotations"], rotations)


def test_buckets_are_replayed_even_where_rounding_would_move_them(monkeypatch: pytest.MonkeyPatch) -> None:
    qk, v = torch.randn(2, 1, 2, 40, 8).unbind(0)
    mechanism = TransformersLSHAttention(chunk_size=8)
    recording = Recording(qk)
    with recording.record():
        out = mechanism(qk, v)
    monkeypatch.setattr(transformers_lsh, "bucket_by_factors", lambda *given: bucket_by_factors(*given).flip(-1))
    with recording.replay():
        assert torch.equal(mechanism(qk, v), out)
    assert not torch.equal(mechanism(qk, v), out)


def test_new_cache_raises_and_names_lsh_attention() -> None:
    with pytest.raises(ValueError, match="LSHAttention with causal=True and rule='bucket'"):
        TransformersLSHAttention(causal=True).new_cache(torch.zeros(1, 1, 1, 4), 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"n_rounds": 0}, "n_rounds is 0"),
        ({"n_buckets": 3}, "n_buckets is 3"),
        ({"n_buckets": -2}, "n_buckets is -2"),
        ({"n_buckets": 0}, "n_buckets is 0"),
        ({"bucket_factors": (3, 3)}, r"bucket_factors are \(3, 3\), must be even"),
        ({"bucket_factors": (0, 2)}, "must be even"),
        ({"bucket_factors": ()}, "must be even"),
        ({"bucket_factors": (2, 2), "n_buckets": 4}, "give only one of them"),
        ({"multiple_of": 96}, "multiple_of is 96, must be a multiple of chunk_size 64"),
        ({"multiple_of": 0}, "multiple_of is 0"),
        ({"epsilon": -1}, "epsilon is -1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"rotations": torch.zeros(2, 4, 8, 2)}, "rotations need n_buckets or bucket_factors"),
        (KEPT | {"n_rounds": 3}, r"rotations have shape \(2, 4, 8, 2\), must be \(h, 3, head_dim, 2\)"),
        (KEPT | {"n_buckets": 6}, "must be .h, 4, head_dim, 3"),
        (KEPT | {"n_buckets": None, "bucket_factors": (4, 2)}, "must be .h, 4, head_dim, 3"),
        (KEPT | {"rotations": torch.zeros(4, 8, 2)}, "must be .h, 4, head_dim, 2"),
    ],
)
def test_contradictory_settings_raise(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformersLSHAttention(**settings)
