"""Which images come in which batch: a function of the seed and the pass over the data, and of nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def epoch_batches(
    length: int, batch_size: int, generator: torch.Generator, groups: Sequence[int] | None = None
) -> list[list[int]]:
    """The batches of one pass in random order; an incomplete batch at the end is left out.

    With groups, batches have images of one group; only what is left over in the groups is mixed, so that there are as
    many batches as without.

    Args:
        length: number of images.
        batch_size: images in each batch.
        generator: seeded by seed and pass.
        groups: number of the group of every image; None for one group.

    Returns:
        ``length // batch_size`` lists of indices, none of which occurs twice.

    Example:
        >>> epoch_batches(5, 2, torch.Generator().manual_seed(0), [0, 1, 0, 1, 1])
        [[1, 4], [0, 2]]
    """
    order = torch.randperm(length, generator=generator).tolist()
    if groups is None:
        return [order[first : first + batch_size] for first in range(0, length - batch_size + 1, batch_size)]
    batches, rest = [], []
    for group in sorted(set(groups)):
        members = [index for index in order if groups[index] == group]
        whole = len(members) // batch_size * batch_size
        batches += [members[first : first + batch_size] for first in range(0, whole, batch_size)]
        rest += members[whole:]
    batches += [rest[first : first + batch_size] for first in range(0, len(rest) - batch_size + 1, batch_size)]
    return [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]
