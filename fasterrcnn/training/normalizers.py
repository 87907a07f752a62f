"""What losses are divided by when a step has several parts, on several processes or one after another.

A stage divides its summed losses by the number of its samples or of its positives (``StageLoss.normalizer``). Parts may
have different numbers of these, so the mean of the parts' losses is not the loss of the whole. Here each of P parts
divides by 1/P of what *all* parts have together; then the mean over the parts, which is what DistributedDataParallel
and accumulation make of gradients, is the loss of the whole batch:

    (1/P) · Σ over parts of  sum of the part / (n / P)  =  sum of all / n,   n = max(1, n of part 1 + … + n of part P)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from torch import Tensor, nn

from fasterrcnn import distributed


class Normalizer:
    """The numbers of one stage.

    Args:
        parts: P, of all processes together.
        known: Whether the numbers of all parts are counted before (:meth:`count`), as parts one after another need it;
            otherwise a part asks the other processes at once.
    """

    def __init__(self, parts: int, *, known: bool) -> None:
        self.parts, self.known = parts, known
        self._counting = False
        self._total: Tensor | None = None

    @contextmanager
    def count(self) -> Iterator[None]:
        """While this lasts the losses of this process's parts are computed for the sake of the numbers alone."""
        self._counting, self._total = True, None
        try:
            yield
        finally:
            self._counting = False
        if self._total is not None:
            self._total = distributed.summed(self._total)

    def __call__(self, counts: Tensor) -> Tensor:
        """Divisors float[2] of a part that has ``counts`` int64[2] samples and positives."""
        if self._counting:
            self._total = counts if self._total is None else self._total + counts
            return counts.clamp(min=1)
        total = self._total if self.known else distributed.summed(counts)
        return total.clamp(min=1) / self.parts


@contextmanager
def normalized(model: nn.Module, parts: int, *, known: bool) -> Iterator[list[Normalizer]]:
    """Gives the stages of a detector such divisors for a while; with one part it leaves them as they are."""
    before = model.rpn_loss, model.roi_loss
    if parts == 1:
        yield []
        return
    normalizers = [Normalizer(parts, known=known) for _ in before]
    model.rpn_loss, model.roi_loss = (
        replace(loss, combine=normalizer) for loss, normalizer in zip(before, normalizers, strict=True)
    )
    try:
        yield normalizers
    finally:
        model.rpn_loss, model.roi_loss = before
