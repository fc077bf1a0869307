"""Batches in a reproducible order, so that a resumed run continues at the same position."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import skip_first_batches
from accelerate.utils import send_to_device
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, Sampler

from my_custom_ai.custom_train.errors import CheckpointError
from my_custom_ai.utils.signals import leave_to_parent


class EqualBatches(BatchSampler):
    """This process's share of a permutation of ``n_examples``, drawn from (seed, epoch), in batches of equal size."""

    def __init__(self, n_examples: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1) -> None:
        examples = cast("Dataset[int]", range(n_examples))  # only its length is used
        shares: DistributedSampler[int] = DistributedSampler(
            examples, world_size, rank, shuffle=True, seed=seed, drop_last=True
        )
        super().__init__(shares, batch_size, drop_last=True)
        self._shares = shares
        if not len(self):
            raise ValueError(
                f"{n_examples} training examples do not fill one batch of {batch_size} on {world_size} process(es)"
            )

    def set_epoch(self, epoch: int) -> None:
        """Iterate over the batches of this epoch from now on."""
        self._shares.set_epoch(epoch)


class BucketedBatches(Sampler[list[int]]):
    """Batches of examples of similar size, which saves padding: of ``batch_size`` examples, or as many as fit.

    A permutation drawn from (seed, epoch) is sorted by size (stably, so examples of equal size stay shuffled) and cut
    into batches, and the batches are shuffled. Every epoch has the same number of batches. With ``batch_size``, the
    examples that do not fill the last batch of every process are left out before sorting: different ones in each epoch,
    regardless of size.

    Args:
        sizes: (n,) integers, the size of each example.
        bound: upper bound of a batch's number of examples times its largest size; give either this or batch_size.
        batch_size: examples per batch.
        seed: seed of the order.
        rank, world_size: index of this process, and the number of processes. All get the same number of batches; the
            remaining ones are dropped.

    Raises:
        ValueError: an example is larger than the bound, or there are fewer batches than processes.
    """

    def __init__(
        self,
        sizes: np.ndarray,
        bound: int | None = None,
        *,
        batch_size: int | None = None,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._sizes = np.asarray(sizes, dtype=np.int64)
        if batch_size is not None:
            used = len(self._sizes) // (batch_size * world_size) * batch_size * world_size
            self._cuts = list(range(0, used + 1, batch_size))
        else:
            assert bound is not None
            self._cuts = _cuts(np.sort(self._sizes), bound)
        if not len(self._cuts) > world_size:
            unit = f"{batch_size} examples" if batch_size else f"{bound} tokens"
            raise ValueError(
                f"{len(self._sizes)} training examples make {len(self._cuts) - 1} batches of {unit}, which is "
                f"fewer than the {world_size} process(es)"
            )
        self._seed, self._rank, self._world_size = seed, rank, world_size
        self._epoch = 0

    def __len__(self) -> int:
        """Batches per epoch and process."""
        return (len(self._cuts) - 1) // self._world_size

    def set_epoch(self, epoch: int) -> None:
        """Iterate over the batches of this epoch from now on."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        """Indices of the examples of each batch."""
        generator = np.random.default_rng((self._seed, self._epoch))
        order = generator.permutation(len(self._sizes))[: self._cuts[-1]]
        order = order[np.argsort(self._sizes[order], kind="stable")]
        batches = generator.permutation(len(self._cuts) - 1)[: len(self) * self._world_size]
        for batch in batches[self._rank :: self._world_size]:
            yield order[self._cuts[batch] : self._cuts[batch + 1]].tolist()


class DealtBatches(Sampler[list[int]]):
    """The batches of ``shares`` samplers of one epoch after another, dealt anew to ``world_size`` processes.

    Every ``shares`` batches, one of each sampler, follow each other. Process ``rank`` gets every ``world_size``-th of
    the sequence of all epochs, so that together the processes compute the same batches in the same order.

    Args:
        samplers: the shares, of equal length.
        rank, world_size: index of this process, and the number of processes.
    """

    def __init__(self, samplers: Sequence[EqualBatches | BucketedBatches], *, rank: int, world_size: int) -> None:
        self._samplers, self._rank, self.world_size = samplers, rank, world_size
        self.total = sum(map(len, samplers))  # batches per epoch of all processes
        self._first = 0

    def first_of(self, epoch: int) -> int:
        """Number of this process's first batch of an epoch, among the epoch's batches of all processes."""
        return (self._rank - epoch * self.total) % self.world_size

    def __len__(self) -> int:
        """Batches of the current epoch, of this process."""
        return len(range(self._first, self.total, self.world_size))

    def set_epoch(self, epoch: int) -> None:
        """Iterate over the batches of this epoch from now on."""
        self._first = self.first_of(epoch)
        for sampler in self._samplers:
            sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        """Indices of the examples of each batch."""
        everyones = chain.from_iterable(zip(*self._samplers, strict=True))
        return islice(everyones, self._first, None, self.world_size)


def _cuts(ascending: np.ndarray, bound: int) -> list[int]:
    """Start of each batch, and the end. Greedy: a batch grows while its count times its largest size is <= bound."""
    if len(ascending) and (largest := ascending[-1]) > bound:
        raise ValueError(
            f"an example of {largest} tokens does not fit into a batch of {bound}; allow at least {largest}, or "
            "leave such examples out"
        )
    cuts = [0]
    while (start := cuts[-1]) < len(ascending):
        stops = range(start + 1, len(ascending) + 1)
        cuts.append(start + bisect_right(stops, bound, key=lambda stop: (stop - start) * ascending[stop - 1]))
    return cuts


class TrainingBatches:
    """An endless stream of training batches, shuffled each epoch in an order that depends only on (seed, epoch).

    If the dataset has a method ``set_epoch``, it is called with the epoch's number before each epoch; if it has a
    method ``collate``, that makes a batch of examples. Examples that do not fill the last batch of every process are
    dropped. The global random generators are not used.

    Args:
        dataset: a dataset with a length; for ``batch_tokens`` and ``similar_sizes`` also with ``sizes``, one integer
            per example.
        batch_size: examples per batch and process; give either this or batch_tokens.
        batch_tokens: upper bound of a batch's number of examples times its largest size; see :class:`BucketedBatches`.
        similar_sizes: with batch_size: batches of examples of similar size, which saves padding.
        seed: seed of the order.
        rank: index of this process; each process gets its own share of every epoch.
        world_size: number of processes.
        shares: the number of shares of an epoch that are dealt to the processes; None: ``world_size``, one to each. A
            training that continues on another number of processes keeps its shares, so that it sees the same batches;
            see :class:`DealtBatches`.
        num_workers: the number of data-loading processes.
        pin_memory: use page-locked memory, from which copies to a CUDA device overlap with computation.

    Raises:
        ValueError: the dataset has no length or no ``sizes``, there are fewer batches than processes, or an example is
            larger than ``batch_tokens``.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        similar_sizes: bool = False,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        shares: int | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        if (batch_size is None) == (batch_tokens is None):
            raise ValueError("give either batch_size or batch_tokens")
        length = length_of(dataset, "training data")
        self._dataset = dataset
        sampler: partial[EqualBatches] | partial[BucketedBatches]
        if batch_size is not None and not similar_sizes:
            sampler = partial(EqualBatches, length, batch_size, seed=seed)
        else:
            sizes = sizes_of(dataset, "batch_tokens" if batch_tokens else "similar_sizes")
            sampler = partial(BucketedBatches, sizes, batch_tokens, batch_size=batch_size, seed=seed)
        if shares is None or shares == world_size:
            own = [sampler(rank=rank, world_size=world_size)]
            self._sampler = DealtBatches(own, rank=0, world_size=1)
        else:
            everyones = [sampler(rank=share, world_size=shares) for share in range(shares)]
            self._sampler = DealtBatches(everyones, rank=rank, world_size=world_size)
        self._loader = DataLoader(
            dataset,
            batch_sampler=self._sampler,
            num_workers=num_workers,
            worker_init_fn=leave_to_parent,
            collate_fn=getattr(dataset, "collate", None),
            generator=torch.Generator().manual_seed(seed),
            pin_memory=pin_memory,
        )

    def __len__(self) -> int:
        """Batches per epoch and process; with other ``shares`` than processes, those of the current epoch."""
        return len(self._loader)

    def starting_at(self, position: int) -> Iterator[Any]:
        """The endless stream from this process's batch number ``position`` on."""
        sampler = self._sampler
        epoch, within = divmod(sampler.first_of(0) + position * sampler.world_size, sampler.total)
        skipped = (within - sampler.first_of(epoch)) // sampler.world_size
        while True:
            sampler.set_epoch(epoch)
            if hasattr(self._dataset, "set_epoch"):
                self._dataset.set_epoch(epoch)
            yield from skip_first_batches(self._loader, skipped) if skipped else self._loader
            epoch, skipped = epoch + 1, 0


def batches_of_process(shares: int, accumulate: int, processes: int, path: Path | None) -> int:
    """Batches per update of each process, of a training that began on ``shares`` of them, with ``accumulate`` each.

    Raises:
        CheckpointError: the batches cannot be divided evenly.
    """
    together = shares * accumulate
    if together % processes:
        raise CheckpointError(
            f"{path}: begun on {shares} process(es), with {together} batch(es) per update of all together, which "
            f"cannot be divided evenly to {processes}"
        )
    return together // processes


def evaluation_batches(
    dataset: Dataset[Any],
    *,
    batch_size: int,
    similar_sizes: bool = False,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """Every example exactly once, distributed over the processes, none repeated or dropped.

    For the arguments see :class:`TrainingBatches`. With ``similar_sizes``, the batches come in a fixed random order, so
    that the first few are a fair sample.

    Raises:
        ValueError: the dataset has no length, or no ``sizes`` although they are needed.
    """
    own = range(rank, length_of(dataset, "evaluation data"), world_size)
    batches = [list(own[i : i + batch_size]) for i in range(0, len(own), batch_size)]
    if similar_sizes:
        sizes = sizes_of(dataset, "similar_sizes")
        ascending = sorted(own, key=sizes.__getitem__)
        batches = [ascending[i : i + batch_size] for i in range(0, len(own), batch_size)]
        np.random.default_rng(0).shuffle(batches)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        worker_init_fn=leave_to_parent,
        collate_fn=getattr(dataset, "collate", None),
        generator=torch.Generator(),
        pin_memory=pin_memory,
    )


def length_of(dataset: Dataset[Any], what: str) -> int:
    """The number of examples.

    Raises:
        ValueError: the dataset has no length.
    """
    try:
        return len(dataset)  # type: ignore[arg-type]  # torch's Dataset declares no length
    except (TypeError, NotImplementedError):
        raise ValueError(
            f"{what}: {type(dataset).__name__} has no length; give a map-style dataset, with __len__ and __getitem__"
        ) from None


def sizes_of(dataset: Dataset[Any], setting: str) -> np.ndarray:
    """The size of each example, which ``setting`` needs.

    Raises:
        ValueError: the dataset has no ``sizes``.
    """
    if not hasattr(dataset, "sizes"):
        raise ValueError(
            f"{setting} needs the size of each example, but {type(dataset).__name__} has no attribute sizes; give "
            "batch_size alone"
        )
    return np.asarray(dataset.sizes)


def to_device(batch: Any, device: torch.device) -> Any:
    """Move all tensors of a batch to a device; on CUDA, copies from pinned memory are asynchronous."""
    return send_to_device(batch, device, non_blocking=device.type == "cuda")
