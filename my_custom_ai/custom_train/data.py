"""Batches in an order that a resumed run can find its place in."""

from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from accelerate import skip_first_batches
from accelerate.utils import send_to_device
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, Sampler, Subset

from my_custom_ai.utils.signals import leave_to_parent


class EqualBatches(BatchSampler):
    """A share of a permutation of ``n_examples``, drawn from (seed, epoch), in batches of one size."""

    def __init__(self, n_examples: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1) -> None:
        examples = cast("Dataset[int]", range(n_examples))  # of which nothing is asked but the length
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
        """Give the batches of another epoch."""
        self._shares.set_epoch(epoch)


class BucketedBatches(Sampler[list[int]]):
    """Examples of similar size, so many a batch that they fit when each is padded to the largest.

    A permutation, drawn from (seed, epoch), is sorted by size (equal ones stay in drawn order), cut, and the batches
    are shuffled. Cuts depend on the sizes alone, so that every epoch has as many batches.

    Args:
        sizes: (n,) integers, of each example.
        bound: on a batch's number of examples times the largest of them.
        seed: of the order.
        rank, world_size: which of how many processes this is; each gets as many batches, others are left out.

    Raises:
        ValueError: an example is larger than the bound, or there are fewer batches than processes.
    """

    def __init__(self, sizes: np.ndarray, bound: int, *, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self._sizes = np.asarray(sizes, dtype=np.int64)
        largest = self._sizes.max(initial=0)
        if largest > bound:
            raise ValueError(
                f"an example of {largest} tokens does not fit into a batch of {bound}; allow {largest} at least, or "
                "leave such examples out"
            )
        self._cuts = _cuts(np.sort(self._sizes), bound)
        if not len(self._cuts) > world_size:
            raise ValueError(
                f"{len(self._sizes)} training examples make {len(self._cuts) - 1} batches of {bound} tokens, which are "
                f"less than one for each of {world_size} process(es)"
            )
        self._seed, self._rank, self._world_size = seed, rank, world_size
        self._epoch = 0

    def __len__(self) -> int:
        """Batches an epoch and process."""
        return (len(self._cuts) - 1) // self._world_size

    def set_epoch(self, epoch: int) -> None:
        """Give the batches of another epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        """Numbers of examples, a batch at a time."""
        generator = np.random.default_rng((self._seed, self._epoch))
        order = generator.permutation(len(self._sizes))
        order = order[np.argsort(self._sizes[order], kind="stable")]
        batches = generator.permutation(len(self._cuts) - 1)[: len(self) * self._world_size]
        for batch in batches[self._rank :: self._world_size]:
            yield order[self._cuts[batch] : self._cuts[batch + 1]].tolist()


def _cuts(ascending: np.ndarray, bound: int) -> list[int]:
    """Where batches begin, and the end: each goes as far as its number times its last, largest size allows."""
    cuts = [0]
    while (start := cuts[-1]) < len(ascending):
        stops = range(start + 1, len(ascending) + 1)
        cuts.append(start + bisect_right(stops, bound, key=lambda stop: (stop - start) * ascending[stop - 1]))
    return cuts


class TrainingBatches:
    """An endless stream of training batches, shuffled anew each epoch by (seed, epoch) alone.

    A dataset with a method ``set_epoch`` is told each epoch's number before it begins; one with a method ``collate``
    puts its examples together itself. What does not fill a last batch, or a last round of the processes, is left out.
    Nothing is drawn from the global generators.

    Args:
        dataset: with a length; for ``batch_tokens`` also with ``sizes``, an integer for each example.
        batch_size: examples a batch and process; give this or batch_tokens.
        batch_tokens: on a batch's number of examples times the largest of their sizes; see :class:`BucketedBatches`.
        seed: of the order.
        rank: number of this process; each process gets its own share of every epoch.
        world_size: how many processes there are.
        num_workers: processes that load data.
        pin_memory: put batches into memory from which a CUDA device copies them while it computes.

    Raises:
        ValueError: the dataset has no length or no ``sizes``, there is not one batch for each process, or an example is
            larger than ``batch_tokens``.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        if (batch_size is None) == (batch_tokens is None):
            raise ValueError("give batch_size or batch_tokens, one of them")
        length = length_of(dataset, "training data")
        self._dataset = dataset
        self._sampler: EqualBatches | BucketedBatches
        if batch_size is not None:
            self._sampler = EqualBatches(length, batch_size, seed=seed, rank=rank, world_size=world_size)
        elif not hasattr(dataset, "sizes"):
            raise ValueError(
                f"batch_tokens needs the size of each example, but {type(dataset).__name__} has no attribute sizes; "
                "give batch_size instead"
            )
        else:
            assert batch_tokens is not None  # one of them is given
            self._sampler = BucketedBatches(dataset.sizes, batch_tokens, seed=seed, rank=rank, world_size=world_size)
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
        """Batches an epoch."""
        return len(self._loader)

    def starting_at(self, position: int) -> Iterator[Any]:
        """All batches from number ``position`` on, without end."""
        epoch, skipped = divmod(position, len(self))
        while True:
            self._sampler.set_epoch(epoch)
            if hasattr(self._dataset, "set_epoch"):
                self._dataset.set_epoch(epoch)
            yield from skip_first_batches(self._loader, skipped) if skipped else self._loader
            epoch, skipped = epoch + 1, 0


def evaluation_batches(
    dataset: Dataset[Any],
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """Every example once, shared out among the processes without repeating or dropping any.

    The arguments are those of :class:`TrainingBatches`.

    Raises:
        ValueError: the dataset has no length.
    """
    return DataLoader(
        Subset(dataset, range(rank, length_of(dataset, "evaluation data"), world_size)),
        batch_size=batch_size,
        num_workers=num_workers,
        worker_init_fn=leave_to_parent,
        collate_fn=getattr(dataset, "collate", None),
        generator=torch.Generator(),
        pin_memory=pin_memory,
    )


def length_of(dataset: Dataset[Any], what: str) -> int:
    """Number of examples.

    Raises:
        ValueError: the dataset does not tell it.
    """
    try:
        return len(dataset)  # type: ignore[arg-type]  # torch's Dataset declares no length
    except (TypeError, NotImplementedError):
        raise ValueError(
            f"{what}: {type(dataset).__name__} has no length; give a dataset with __len__ and __getitem__, from which "
            "examples are drawn by number"
        ) from None


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch with all its tensors on a device; on CUDA without waiting for copies from pinned memory."""
    return send_to_device(batch, device, non_blocking=device.type == "cuda")
