import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from my_transformers import FullAttention, LocalAttention, MultiHeadAttention, reference


def near(n: int, chunk: int, back: int, ahead: int) -> torch.Tensor:
    """(n, n), True where a query's chunk sees a key's."""
    number = torch.arange(n) // chunk
    distance = number.unsqueeze(-1) - number
    return (-ahead <= distance) & (distance <= back)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 40),
    chunk=st.integers(1, 12),
    back=st.integers(0, 4),
    ahead=st.integers(0, 4),
    seed=st.integers(0, 99),
)
def test_equals_the_formula(causal: bool, padded: bool, n: int, chunk: int, back: int, ahead: int, seed: int) -> None:
    """Output and gradients; values may be wider than keys."""
    ahead = 0 if causal else ahead
    generator = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 2, 3, n, 4, dtype=torch.float64, generator=generator).unbind(0)
    v = torch.randn(2, 3, n, 5, dtype=torch.float64, generator=generator)
    qkv = [x.requires_grad_() for x in (q, k, v)]
    mask = torch.rand(2, n, generator=generator) < 0.7
    mask = mask if padded else torch.ones_like(mask)
    mechanism = LocalAttention(chunk_size=chunk, back=back, ahead=ahead, causal=causal)
    ours = mechanism(*qkv, mask=mask if padded else None)
    visible = mask[:, None, None, :] & near(n, chunk, back, ahead)
    visible = visible.tril() if causal else visible
    theirs = reference.full_attention(q, k, v, visible | torch.eye(n, dtype=torch.bool))
    real = mask[:, None, :, None]
    torch.testing.assert_close(ours * real, theirs * real)
    weights = torch.randn_like(v) * real
    pairs = zip(torch.autograd.grad(ours, qkv, weights), torch.autograd.grad(theirs, qkv, weights), strict=True)
    for mine, other in pairs:
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("causal", [False, True])
def test_by_default_as_far_ahead_as_back_or_not_at_all(causal: bool) -> None:
    q, k, v = torch.randn(3, 1, 1, 40, 4, dtype=torch.float64).unbind(0)
    explicit = LocalAttention(chunk_size=4, back=2, ahead=0 if causal else 2, causal=causal)
    assert torch.equal(LocalAttention(chunk_size=4, back=2, causal=causal)(q, k, v), explicit(q, k, v))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("settings", [{"chunk_size": 30}, {"chunk_size": 4, "back": 7}])
def test_full_attention_where_everything_is_near(causal: bool, settings: dict) -> None:
    q, k, v = torch.randn(3, 2, 2, 30, 4, dtype=torch.float64).unbind(0)
    mask = torch.rand(2, 30) < 0.7
    ours = LocalAttention(**settings, causal=causal)(q, k, v, mask=mask).mT
    theirs = FullAttention(causal=causal)(q, k, v, mask=mask).mT
    for b in range(2):
        torch.testing.assert_close(ours[b, ..., mask[b]], theirs[b, ..., mask[b]])


@pytest.mark.parametrize(("n", "circle"), [(5, 4), (8, 4), (13, 4), (9, 12), (12, 12), (13, 24), (3, 12)])
@pytest.mark.parametrize(("back", "ahead"), [(1, 0), (1, 1), (0, 1)])
def test_the_ends_of_a_circle_meet(n: int, circle: int, back: int, ahead: int) -> None:
    """Padding at the end of the last chunks lies between the ends; of two chunks, one is seen from both sides."""
    q, k, v = torch.randn(3, 2, 2, n, 4, dtype=torch.float64).unbind(0)
    chunks = -(-n // circle) * circle // 4
    number = torch.arange(n) // 4
    distance = (number.unsqueeze(-1) - number) % chunks
    times = 1.0 * (distance == 0) + back * (distance == 1 % chunks) + ahead * (distance == -1 % chunks)
    if n <= 4:
        times = torch.ones(n, n)
    scores = q @ k.mT / 2 + times.log()
    ours = LocalAttention(chunk_size=4, back=back, ahead=ahead, circle=circle)(q, k, v)
    torch.testing.assert_close(ours, scores.softmax(-1) @ v)


def test_memory_grows_with_the_length_alone() -> None:
    def saved(n: int) -> int:
        kept: dict[int, int] = {}

        def pack(x: torch.Tensor) -> torch.Tensor:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        q, k, v = (torch.randn(1, 2, n, 8, requires_grad=True) for _ in range(3))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            LocalAttention(chunk_size=16, causal=True)(q, k, v)
        return sum(kept.values())

    assert saved(4096) <= 4.1 * saved(1024)
    assert saved(1024) < 1024**2  # bytes: not even one n x n mask


def test_the_cache_holds_what_can_still_be_seen() -> None:
    mechanism = LocalAttention(chunk_size=8, back=2, causal=True)
    like = torch.zeros(2, 3, 0, 4)
    assert mechanism.new_cache(like, 100_000).keys.shape == (2, 3, 24, 4)
    assert mechanism.new_cache(like, 10).keys.shape == (2, 3, 10, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"back": -1}, "back is -1"),
        ({"ahead": -1}, "ahead is -1"),
        ({"ahead": 1, "causal": True}, "ahead is 1, must be 0 with causal=True"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"circle": 100}, "circle is 100, must be a positive multiple of chunk_size 64"),
        ({"circle": 0}, "circle is 0"),
        ({"circle": 64, "causal": True}, "circle needs causal=False"),
    ],
)
def test_contradictions_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LocalAttention(**settings)


@pytest.mark.parametrize("causal", [False, True])
def test_keys_of_another_length_are_refused(causal: bool) -> None:
    q, k, v = torch.randn(1, 1, 5, 4), torch.randn(1, 1, 9, 4), torch.randn(1, 1, 9, 4)
    with pytest.raises(ValueError, match="5 queries and 9 keys; for a context use FullAttention"):
        LocalAttention(causal=causal)(q, k, v)


def test_steps_under_autocast() -> None:
    """The cache has the weights' dtype, what comes is half as wide."""
    layer = MultiHeadAttention(LocalAttention(chunk_size=4, causal=True), dim=16, heads=2).eval()
    x = torch.randn(2, 30, 16)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        cache = layer.new_cache(2, 30)
        found = torch.cat([layer.step(part, cache) for part in x.split([11, 1, 1, 17], dim=1)], dim=1)
        torch.testing.assert_close(found, layer(x), rtol=0, atol=0.02)
