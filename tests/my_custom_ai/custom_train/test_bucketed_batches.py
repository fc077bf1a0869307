"""Batches bounded by tokens: each example at most once, never over the bound, in an order that can be resumed."""

import random
import re
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import Points, tiny_trainer
from torch.utils.data import TensorDataset

from my_custom_ai.custom_train.data import BucketedBatches, TrainingBatches, evaluation_batches

sizes_and_bound = st.lists(st.integers(1, 12), min_size=1, max_size=40).flatmap(
    lambda sizes: st.tuples(st.just(sizes), st.integers(max(sizes), 60))
)


class Sized(torch.utils.data.Dataset):
    """Example i is i, as long as its size; a batch is the list of its examples, behind a word."""

    def __init__(self, sizes):
        self.sizes = np.array(sizes)
        self.epochs = []

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        return index

    def collate(self, items):
        return "together", items

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


def stream(sizes, bound, seed=0, **more):
    return TrainingBatches(Sized(sizes), batch_tokens=bound, seed=seed, **more)


def first(batches, n, position=0):
    return [items for _, items in islice(batches.starting_at(position), n)]


def greedy(sizes, bound):
    """How many batches there are, counted one example after the other from the shortest."""
    count, n = 0, bound
    for size in sorted(sizes):
        n += 1
        if n * size > bound:
            count, n = count + 1, 1
    return count


@settings(deadline=None)
@given(sizes_and_bound, st.integers(0, 5))
def test_an_epoch_has_every_example_once_and_no_batch_over_the_bound(given_sizes, seed):
    sizes, bound = given_sizes
    batches = stream(sizes, bound, seed)
    assert len(batches) == greedy(sizes, bound)
    whole = first(batches, 3 * len(batches))
    for epoch in range(3):
        mine = whole[epoch * len(batches) : (epoch + 1) * len(batches)]
        assert sorted(i for batch in mine for i in batch) == list(range(len(sizes)))
        assert all(len(batch) * max(sizes[i] for i in batch) <= bound for batch in mine)
        by_size = sorted([sizes[i] for i in batch] for batch in mine)
        assert all(max(small) <= min(large) for small, large in pairwise(by_size)), "of similar size"


@settings(deadline=None, max_examples=40)
@given(sizes_and_bound, st.integers(1, 3), st.data())
def test_starting_anywhere_gives_the_tail_of_the_whole(given_sizes, world, data):
    sizes, bound = given_sizes
    if greedy(sizes, bound) < world:
        return
    rank = data.draw(st.integers(0, world - 1))

    def make():
        return stream(sizes, bound, rank=rank, world_size=world)

    n = len(make())
    whole = first(make(), 2 * n + 3)
    reused = make()
    for position in range(2 * n):
        assert first(make(), 3, position) == whole[position : position + 3] == first(reused, 3, position)


@settings(deadline=None)
@given(sizes_and_bound, st.integers(1, 4))
def test_ranks_share_out_an_epoch(given_sizes, world):
    sizes, bound = given_sizes
    n_batches = greedy(sizes, bound)
    if n_batches < world:
        with pytest.raises(ValueError, match=rf"make {n_batches} batches of {bound} tokens, .* {world} process"):
            stream(sizes, bound, world_size=world)
        return
    whole = {tuple(batch) for batch in first(stream(sizes, bound), n_batches)}
    shares = [stream(sizes, bound, rank=rank, world_size=world) for rank in range(world)]
    assert {len(share) for share in shares} == {n_batches // world}
    together = [tuple(batch) for share in shares for batch in first(share, len(share))]
    assert len(set(together)) == len(together) == n_batches // world * world
    assert set(together) <= whole


def test_the_order_depends_on_seed_and_epoch_alone():
    sizes = np.random.default_rng(0).integers(1, 9, 60)

    def epochs(seed):
        batches = stream(sizes, 16, seed)
        return [first(batches, len(batches), epoch * len(batches)) for epoch in range(3)]

    torch.manual_seed(1)
    orders = epochs(3)
    np.random.seed(2)
    assert epochs(3) == orders
    flat = [str(order) for order in [*orders, *epochs(4), *epochs(2)]]
    assert len(set(flat)) == len(flat), "seed 3 in epoch 1 is not seed 4 in epoch 0"
    for order in orders:
        longest = [max(sizes[i] for i in batch) for batch in order]
        assert longest != sorted(longest), "batches are shuffled, too"
    together = [{frozenset(batch) for batch in order} for order in orders]
    assert together[0] != together[1], "who is together changes"


@given(sizes_and_bound, st.integers(0, 3))
@settings(deadline=None)
def test_who_is_together_is_the_same_on_every_machine(given_sizes, seed):
    """A stable sort of a permutation, and nothing that depends on how a library sorts."""
    sizes, bound = given_sizes
    expected, batch = set(), []
    drawn = np.random.default_rng((seed, 0)).permutation(len(sizes)).tolist()
    for i in sorted(drawn, key=sizes.__getitem__):
        if (len(batch) + 1) * sizes[i] > bound:
            expected.add(tuple(batch))
            batch = []
        batch.append(i)
    batches = stream(sizes, bound, seed)
    assert {tuple(batch) for batch in first(batches, len(batches))} == expected | {tuple(batch)}


@settings(deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=40), st.integers(1, 5), st.integers(1, 3))
def test_batches_of_a_number_of_examples_of_similar_size(sizes, batch_size, world):
    """All processes together see each example at most once in an epoch, in equal batches that are cut after sorting."""
    n = len(sizes) // (batch_size * world)
    if n == 0:
        with pytest.raises(ValueError, match=rf"^{len(sizes)} training examples make .* fewer than"):
            TrainingBatches(Sized(sizes), batch_size=batch_size, similar_sizes=True, seed=0, world_size=world)
        return
    shares = [
        TrainingBatches(Sized(sizes), batch_size=batch_size, similar_sizes=True, seed=0, rank=rank, world_size=world)
        for rank in range(world)
    ]
    for epoch in range(2):
        batches = [batch for share in shares for batch in first(share, n, epoch * n)]
        assert [len(batch) for batch in batches] == [batch_size] * (n * world)
        assert len({i for batch in batches for i in batch}) == batch_size * n * world
        by_size = sorted([sizes[i] for i in batch] for batch in batches)
        assert all(max(small) <= min(large) for small, large in pairwise(by_size))


def test_what_does_not_fill_a_batch_is_not_always_the_longest():
    batches = TrainingBatches(Sized(range(1, 8)), batch_size=3, similar_sizes=True, seed=0)
    seen = {i for batch in first(batches, 2 * 30) for i in batch}
    assert seen == set(range(7))


@settings(deadline=None)
@given(st.lists(st.integers(1, 12), max_size=40), st.integers(1, 5), st.integers(1, 3))
def test_an_evaluation_by_size_has_every_example_once(sizes, batch_size, world):
    shares = [
        [
            items
            for _, items in evaluation_batches(
                Sized(sizes), batch_size=batch_size, similar_sizes=True, rank=rank, world_size=world
            )
        ]
        for rank in range(world)
    ]
    assert sorted(i for share in shares for batch in share for i in batch) == list(range(len(sizes)))
    for rank, share in enumerate(shares):
        assert len(share) == -(-len(range(rank, len(sizes), world)) // batch_size)
        by_size = sorted([sizes[i] for i in batch] for batch in share)
        assert all(max(small) <= min(large) for small, large in pairwise(by_size))


def test_the_first_batches_of_an_evaluation_by_size_are_no_shortest_ones():
    batches = list(evaluation_batches(Sized(range(100)), batch_size=5, similar_sizes=True))
    assert [i for _, items in batches for i in items] != list(range(100))
    assert max(i for _, items in batches[:4] for i in items) > 50
    assert str(batches) == str(list(evaluation_batches(Sized(range(100)), batch_size=5, similar_sizes=True)))


def test_examples_of_one_size_are_drawn_anew():
    batches = stream([5] * 30, 15)
    assert len(batches) == 10
    epochs = [[i for batch in first(batches, 10, 10 * epoch) for i in batch] for epoch in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(30))
    assert epochs[0] != epochs[1]


def test_no_global_generator_is_touched():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first(stream(range(1, 20), 20), 30, 2)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_a_dataset_is_told_its_epoch():
    data = Sized([2] * 6)
    first(TrainingBatches(data, batch_tokens=4, seed=0), 5, 4)
    assert data.epochs == [1, 2]


def test_an_example_over_the_bound_is_refused():
    with pytest.raises(ValueError, match=r"an example of 9 tokens does not fit into a batch of 8; allow at least 9"):
        stream([1, 9, 2], 8)
    assert sorted(map(sorted, first(stream([1, 9, 2], 9), 2))) == [[0, 2], [1]]


def test_no_examples_are_refused():
    with pytest.raises(ValueError, match=r"0 training examples make 0 batches of 8 tokens"):
        stream([], 8)


@pytest.mark.parametrize("bounds", [{}, {"batch_size": 2, "batch_tokens": 9}])
def test_a_batch_has_one_bound(bounds):
    with pytest.raises(ValueError, match="give either batch_size or batch_tokens"):
        TrainingBatches(Sized([1, 2]), seed=0, **bounds)


def test_small_integers_do_not_overflow():
    sizes = np.full(400, 100, np.uint8)
    assert len(BucketedBatches(sizes, 10_000, seed=0)) == 4


def test_a_dataset_puts_its_batches_together_in_training_and_evaluation():
    data = Sized([1] * 5)
    by_number = next(TrainingBatches(data, batch_size=5, seed=0).starting_at(0))
    by_tokens = next(TrainingBatches(data, batch_tokens=5, seed=0).starting_at(0))
    for word, items in (by_number, by_tokens):
        assert (word, sorted(items)) == ("together", list(range(5)))
    assert list(evaluation_batches(data, batch_size=3, rank=1, world_size=2)) == [("together", [1, 3])]
    skipped = next(TrainingBatches(data, batch_size=1, seed=0).starting_at(3))
    assert skipped[0] == "together"
    (plain,) = next(TrainingBatches(TensorDataset(torch.arange(2)), batch_size=2, seed=0).starting_at(0))
    assert sorted(plain.tolist()) == [0, 1]


def test_the_trainer_hands_the_bound_on():
    data = Points(12)
    data.sizes = np.arange(1, 13)
    trainer = tiny_trainer("run", train_data=data, batch_size=None, batch_tokens=12)
    assert len(trainer._batches) == greedy(range(1, 13), 12)
    with pytest.raises(ValueError, match=re.escape("an example of 12 tokens does not fit into a batch of 11")):
        tiny_trainer("other", train_data=data, batch_size=None, batch_tokens=11)


def test_the_trainer_batches_by_size():
    data = Points(12)
    data.sizes = np.arange(12)
    trainer = tiny_trainer("run", train_data=data, batch_size=4, similar_sizes=True)
    assert len(trainer._batches) == 3
    with pytest.raises(ValueError, match="similar_sizes needs the size of each example, but Points has no"):
        tiny_trainer("other", train_data=Points(12), batch_size=4, similar_sizes=True)
