"""Batches in an order that a resumed run can find its place in."""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import skip_first_batches
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset


class TrainingBatches:
    """An endless stream of training batches, shuffled anew each epoch by (seed, epoch) alone.

    A dataset with a method ``set_epoch`` is told each epoch's number before it begins. A last batch that is not full
    is left out. Nothing is drawn from the global generators.

    Args:
        dataset: with a length.
        batch_size: examples a batch and process.
        seed: of the order.
        rank, world_size: which of how many processes this is; each gets its own share of every epoch.
        num_workers: processes that load data.

    Raises:
        ValueError: the dataset does not fill one batch.
    """

    def __init__(
        self, dataset: Dataset, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, num_workers: int = 0
    ) -> None:
        self._dataset = dataset
        self._sampler = DistributedSampler(dataset, world_size, rank, shuffle=True, seed=seed, drop_last=True)
        self._loader = DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=self._sampler,
            num_workers=num_workers,
            drop_last=True,
            generator=torch.Generator().manual_seed(seed),
        )
        if not len(self._loader):
            raise ValueError(
                f"{len(dataset)} training examples do not fill one batch of {batch_size} on {world_size} process(es)"
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
    dataset: Dataset, *, batch_size: int, rank: int = 0, world_size: int = 1, num_workers: int = 0
) -> DataLoader:
    """Every example once, shared out among the processes without repeating or dropping any."""
    own = Subset(dataset, range(rank, len(dataset), world_size))
    return DataLoader(own, batch_size=batch_size, num_workers=num_workers, generator=torch.Generator())
