"""A stand-in for the clocks of a card: the host's."""

from __future__ import annotations

import time

import torch


class HostMeter:
    """The interface of ``timing.Meter`` with the host's clock."""

    device = torch.device("cpu")

    def __init__(self, l2_bytes: int = 100) -> None:
        self.l2_bytes = l2_bytes
        self.flushed = 0
        self.peaks = 0

    def flush(self) -> None:
        self.flushed += 1

    def gpu(self, calls, head_start: float = 0.0) -> float:
        started = time.perf_counter()
        for call in calls:
            call()
        return (time.perf_counter() - started) / len(calls)

    def busy(self, call) -> float | None:
        return self.gpu([call])

    def wall(self, call) -> float:
        return self.gpu([call])

    def capture(self, calls):
        return lambda: [call() for call in calls]

    def allocated(self) -> int:
        return 1000

    def peak(self, call) -> int:
        """A gigabyte more each time, so that contenders differ."""
        call()
        self.peaks += 1
        return self.allocated() + self.peaks * 10**9
