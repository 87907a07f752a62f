"""The images of each step: a function of the seed and the number of the step, and of nothing else."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fasterrcnn.data.batches import epoch_batches
from fasterrcnn.data.dataset import DetectionDataset
from fasterrcnn.data.problems import DataError
from fasterrcnn.training.step import mixed_seed
from fasterrcnn.types import Target


def step_batches(
    dataset: DetectionDataset,
    images_per_step: int,
    seed: int,
    start: int,
    total: int,
    *,
    num_workers: int = 0,
    rank: int = 0,
    processes: int = 1,
) -> Iterator[tuple[list[Tensor], list[Target]]]:
    """Batches of the steps ``start``…``total`` − 1; every pass over the data shuffles anew.

    Args:
        dataset: Its ``groups``, where it has any, say which images come together, see
            :func:`fasterrcnn.data.batches.epoch_batches`. Random augmentation draws from torch's generator, which is
            seeded for every image of every step.
        images_per_step: Of all processes together.
        seed: Of the order and of the augmentation.
        start, total: Steps.
        num_workers: Processes that load.
        rank, processes: Of ``processes`` equal parts of each step the one to give.

    Yields:
        Images and targets, ``images_per_step // processes`` of each.

    Raises:
        DataError, OSError: Of the data set, as it raised it.
    """
    per_epoch = len(dataset) // images_per_step
    part = images_per_step // processes

    def keys() -> Iterator[list[tuple[int, int]]]:
        epoch, batches = -1, []
        for step in range(start, total):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                generator = torch.Generator().manual_seed(mixed_seed(seed, -1, epoch))
                batches = epoch_batches(len(dataset), images_per_step, generator, getattr(dataset, "groups", None))
            yield [(step, index) for index in batches[step % per_epoch][rank * part : (rank + 1) * part]]

    loader = DataLoader(
        _Seeded(dataset, seed),
        batch_sampler=keys(),
        num_workers=num_workers,
        collate_fn=_collate,
        worker_init_fn=_ignore_interrupts,
    )
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield batch


class _Seeded:
    """A dataset addressed by (step, index), whose random augmentation depends on nothing else."""

    def __init__(self, dataset: DetectionDataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Target] | Exception:
        step, index = key
        torch.manual_seed(mixed_seed(self.seed, step, index))
        try:
            return self.dataset[index]
        except (DataError, OSError) as error:
            return error  # raised from a worker it would come with the worker's traceback as its message


def _ignore_interrupts(_: int) -> None:
    """Ctrl-C reaches every process of a terminal; the step in progress still needs its images."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which ends the worker, and is how its owner does it


def _collate(samples: list[tuple[Tensor, Target] | Exception]) -> tuple[list[Tensor], list[Target]] | Exception:
    if (error := next((sample for sample in samples if isinstance(sample, Exception)), None)) is not None:
        return error
    return [image for image, _ in samples], [target for _, target in samples]
