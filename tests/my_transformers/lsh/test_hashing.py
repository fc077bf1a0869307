import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from my_transformers.lsh import hashing
from my_transformers.lsh.hashing import (
    bucket_of,
    choose_n_buckets,
    draw_nested_rotations,
    draw_rotations,
    seeded_rotations,
    sort_by_bucket,
    undo_sort,
)


def rotations(heads: int = 2, n_rounds: int = 3, d: int = 8, n_buckets: int = 6, seed: int = 0) -> torch.Tensor:
    like = torch.zeros(1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    return draw_rotations(heads, n_rounds, d, n_buckets, like=like, generator=generator)


def test_bucket_is_the_argmax_of_the_papers_formula() -> None:
    qk, r = torch.randn(2, 2, 50, 8, dtype=torch.float64), rotations()
    projected = torch.einsum("bhnd,hrdk->bhrnk", qk, r)
    assert torch.equal(bucket_of(qk, r).long(), torch.cat((projected, -projected), dim=-1).argmax(-1))


def test_the_same_in_pieces_and_in_any_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    qk, r = torch.randn(3, 2, 17, 8, dtype=torch.float64), rotations()
    whole = bucket_of(qk, r)
    beside = qk.transpose(1, 2).contiguous().transpose(1, 2)  # heads side by side, as they come from a linear map
    monkeypatch.setattr(hashing, "_PROJECTIONS_IN_WORK", 100)
    assert torch.equal(bucket_of(qk, r), whole)
    assert torch.equal(bucket_of(beside, r), whole)


@pytest.mark.parametrize("nested", [False, True])
def test_a_seed_draws_the_same_whatever_the_default_dtype(nested: bool) -> None:
    def drawn() -> torch.Tensor:
        if not nested:
            return rotations()
        return draw_nested_rotations(2, 3, 8, 6, like=torch.zeros(1, dtype=torch.float64), seed=0)

    usual = drawn()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(drawn(), usual)
    finally:
        torch.set_default_dtype(torch.float32)


def test_only_the_direction_counts() -> None:
    qk, r = torch.randn(1, 2, 50, 8, dtype=torch.float64), rotations()
    scale = torch.rand(1, 2, 50, 1, dtype=torch.float64) + 0.1
    assert torch.equal(bucket_of(qk, r), bucket_of(scale * qk, r))
    half = r.shape[-1]
    assert torch.equal((bucket_of(-qk, r) - bucket_of(qk, r)).abs(), torch.full((1, 2, 3, 50), half))


def test_each_head_and_round_hashes_by_itself() -> None:
    """The same vectors in all heads fall into buckets that agree no more often than chance allows."""
    same = torch.randn(1, 1, 200, 8, dtype=torch.float64).expand(1, 2, 200, 8)
    buckets = bucket_of(same, rotations())
    pairs = [buckets[0, h, r] for h in range(2) for r in range(3)]
    agreements = [(a == b).double().mean() for i, a in enumerate(pairs) for b in pairs[:i]]
    assert max(agreements) < 0.6


def test_near_vectors_share_buckets_as_angular_hashing_says() -> None:
    """Two buckets: the chance to differ is the angle between the vectors over pi."""
    angle = 0.7
    pair = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    r = rotations(heads=1, n_rounds=4000, d=2, n_buckets=2)
    buckets = bucket_of(pair.expand(1, 1, 2, 2), r)[0, 0]
    assert (buckets[:, 0] != buckets[:, 1]).double().mean().item() == pytest.approx(angle / math.pi, abs=0.03)


def test_one_bucket_holds_everything() -> None:
    qk = torch.randn(2, 3, 5, 8)
    none = draw_rotations(3, 2, 8, 1, like=qk)
    assert none.shape == (3, 2, 8, 0)
    assert torch.equal(bucket_of(qk, none), torch.zeros(2, 3, 2, 5, dtype=torch.int32))


@given(length=st.integers(1, 5000), bucket_size=st.integers(1, 300))
def test_buckets_are_even_and_hold_their_size(length: int, bucket_size: int) -> None:
    n = choose_n_buckets(length, bucket_size)
    assert (n == 1) == (length <= bucket_size)
    assert n == 1 or n % 2 == 0
    assert length / n <= bucket_size
    assert n <= 2 or length / (n - 2) > bucket_size  # no more than needed


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60))
def test_sorting_is_by_bucket_then_position_and_can_be_undone(buckets: list[int]) -> None:
    order = sort_by_bucket(torch.tensor(buckets))
    assert order.tolist() == sorted(range(len(buckets)), key=lambda t: (buckets[t], t))
    assert torch.equal(order[undo_sort(order)], torch.arange(len(buckets)))


@pytest.mark.parametrize("n_buckets", [7, 2**26])  # keys of 32 and of 64 bits
def test_rows_sorted_as_one_are_rows_sorted_one_by_one(n_buckets: int) -> None:
    """What a GPU does."""
    buckets = torch.randint(7, (3, 2, 50), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    buckets[0, 0, :9] = n_buckets - 1
    assert torch.equal(hashing._sort_rows_as_one(buckets, torch.arange(50), n_buckets), sort_by_bucket(buckets))


def test_seeded_rotations_repeat_and_leave_the_global_generator_alone() -> None:
    """A hash that reset the global generator would repeat every dropout mask as well."""
    like = torch.zeros(1)
    before = torch.get_rng_state()
    first, again, other = (seeded_rotations(like, 2, 4, 8, 6, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    fewer = seeded_rotations(like, 2, 2, 8, 6, 1)
    assert torch.equal(fewer, first[:, :2])  # evaluating with fewer rounds keeps the first ones
    assert torch.equal(seeded_rotations(like.double(), 2, 4, 8, 6, 1), first.double())


def test_seeded_rotations_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done to those that were given out is not done to the next."""
    like = torch.zeros(1)
    first = seeded_rotations(like, 2, 3, 8, 6, 12345)
    expected = first.clone()
    first.zero_()
    monkeypatch.setattr(hashing, "draw_rotations", None)
    assert torch.equal(seeded_rotations(like, 2, 3, 8, 6, 12345), expected)


def test_seeded_rotations_pass_opcheck() -> None:
    torch.library.opcheck(seeded_rotations, (torch.zeros(1), 2, 3, 8, 6, 0))
