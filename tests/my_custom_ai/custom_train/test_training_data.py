import math
import random
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from my_custom_ai.custom_train.data import TrainingBatches, evaluation_batches, to_device


class Numbers(torch.utils.data.Dataset):
    """Example i of epoch e is (e, i)."""

    def __init__(self, size):
        self.size, self.epoch = size, 0

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return torch.tensor([self.epoch, index])

    def set_epoch(self, epoch):
        self.epoch = epoch


def batches(size=20, batch_size=4, seed=0, **more):
    return TrainingBatches(Numbers(size), batch_size=batch_size, seed=seed, **more)


def first(stream, n):
    return [batch.tolist() for batch in islice(stream, n)]


with_a_worker = [0, pytest.param(1, marks=pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"))]


@pytest.mark.parametrize("num_workers", with_a_worker)
def test_every_epoch_is_another_permutation_in_the_dataset_s_own_epoch(num_workers):
    stream = batches(num_workers=num_workers).starting_at(0)
    epochs = [[pair for batch in first(stream, 5) for pair in batch] for _ in range(3)]
    for number, epoch in enumerate(epochs):
        assert sorted(epoch) == [[number, i] for i in range(20)]
    orders = [[i for _, i in epoch] for epoch in epochs]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert orders[0] != list(range(20))


def test_the_seed_makes_the_order():
    orders = [first(batches(seed=seed).starting_at(0), 5) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


@settings(deadline=None)
@given(size=st.integers(3, 30), batch_size=st.integers(1, 5), world=st.integers(1, 3), data=st.data())
def test_starting_anywhere_gives_the_tail_of_the_whole(size, batch_size, world, data):
    if size // world < batch_size:
        return
    rank = data.draw(st.integers(0, world - 1))

    def make():
        return batches(size, batch_size, rank=rank, world_size=world)

    n = len(make())
    whole = first(make().starting_at(0), 3 * n + 2)
    for position in range(3 * n):  # every place of three epochs
        assert first(make().starting_at(position), 3) == whole[position : position + 3], position
    reused = make()
    list(islice(reused.starting_at(2 * n + 1), 2))  # a stream that was begun elsewhere leaves no trace
    assert first(reused.starting_at(n), 2) == whole[n : n + 2]


@pytest.mark.parametrize("num_workers", with_a_worker)
def test_no_global_generator_is_touched(num_workers):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    data = batches(num_workers=num_workers)
    first(data.starting_at(0), 7)
    first(data.starting_at(3), 7)
    list(evaluation_batches(Numbers(7), batch_size=2, num_workers=num_workers))
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


@pytest.mark.parametrize(("size", "world"), [(20, 2), (21, 2), (23, 3)])
def test_ranks_share_out_an_epoch(size, world):
    shares = [
        [i for batch in first(stream.starting_at(0), len(stream)) for _, i in batch]
        for stream in (batches(size, 1, rank=rank, world_size=world) for rank in range(world))
    ]
    assert {len(share) for share in shares} == {size // world}
    together = [i for share in shares for i in share]
    assert len(set(together)) == len(together) == size // world * world


def test_a_last_batch_that_is_not_full_is_left_out():
    stream = batches(size=11, batch_size=4)
    assert len(stream) == 2
    assert [len(batch) for batch in first(stream.starting_at(0), 6)] == [4] * 6


@pytest.mark.parametrize(("size", "world"), [(3, 1), (7, 2), (0, 1)])
def test_a_dataset_that_fills_no_batch_is_refused(size, world):
    with pytest.raises(ValueError, match=rf"{size} training examples do not fill one batch of 4 on {world} process"):
        batches(size, 4, world_size=world)


def test_a_dataset_without_epochs_needs_no_set_epoch():
    stream = TrainingBatches(TensorDataset(torch.arange(6)), batch_size=3, seed=0)
    assert sorted(i for (batch,) in islice(stream.starting_at(0), 2) for i in batch.tolist()) == list(range(6))


@given(size=st.integers(0, 20), world=st.integers(1, 5), batch_size=st.integers(1, 4))
def test_evaluation_sees_each_example_once(size, world, batch_size):
    loaders = [evaluation_batches(Numbers(size), batch_size=batch_size, rank=r, world_size=world) for r in range(world)]
    shares = [[i for batch in loader for i in batch[:, 1].tolist()] for loader in loaders]
    assert sorted(i for share in shares for i in share) == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield from range(10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainingBatches(Stream(), batch_size=2, seed=0), "training data: Stream has no length"),
        (lambda: evaluation_batches(Stream(), batch_size=2), "evaluation data: Stream has no length"),
        (lambda: TrainingBatches(Numbers(9), batch_tokens=4, seed=0), "batch_tokens .* Numbers has no attribute sizes"),
        (lambda: TrainingBatches(Numbers(9), seed=0), "give either batch_size or batch_tokens"),
    ],
)
def test_data_that_cannot_be_drawn_from_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Moved:
    """Keeps how it was sent."""

    def to(self, device, non_blocking):
        return device.type, non_blocking


def test_only_copies_to_cuda_are_not_waited_for():
    sent = [to_device({"x": [Moved()]}, torch.device(name))["x"][0] for name in ("cpu", "cuda")]
    assert sent == [("cpu", False), ("cuda", True)]


@pytest.mark.parametrize("bound", [{"batch_size": 2}, {"batch_tokens": 6}])
@pytest.mark.parametrize(("shares", "world_size"), [(2, 1), (1, 2), (4, 2), (2, 4), (3, 2)])
def test_dealt_to_other_processes_an_update_has_the_same_batches(shares, world_size, bound):
    """In the middle of an epoch and across its end; batches that were one process's stay together."""

    class Sized(torch.utils.data.Dataset):
        sizes = [1 + i % 3 for i in range(41)]

        def __len__(self):
            return 41

        def __getitem__(self, index):
            return index

    together = shares * 4 // math.gcd(shares, 4)  # batches per update

    def updates(processes, first, n):
        found = [[] for _ in range(n)]
        parts = together // processes
        for rank in range(processes):
            batches = TrainingBatches(Sized(), **bound, seed=3, rank=rank, world_size=processes, shares=shares)
            stream = batches.starting_at(first * parts)
            for update in found:
                update += [next(stream).tolist() for _ in range(parts)]
        return [sorted(update) for update in found]

    expected = updates(shares, 0, 12)
    assert sum(len(batch) for update in expected for batch in update) > 2 * 41, "more than two epochs"
    for first in (0, 5):
        assert updates(world_size, first, 12 - first) == expected[first:]
