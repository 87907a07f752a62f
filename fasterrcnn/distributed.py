"""Several processes that work as one, started by ``torchrun``; without it everything here is that of one process.

    torchrun --nproc-per-node 2 -m fasterrcnn train --system classic_vgg16 --backbone tiny --out runs/two

Processes talk over gloo on CPUs and NCCL on CUDA devices, one device for each. The first one, of rank 0, alone writes
and prints; an error in any of them ends all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Result = TypeVar("Result")


# How long one process waits for another. Long: shares of work differ (one may have all the videos), and torchrun itself
# ends the others when one fails or is killed.
PATIENCE = timedelta(days=7)


class PeerError(RuntimeError):
    """Another process failed.

    Attributes:
        told: Whether that one says why.
    """

    def __init__(self, message: str, *, told: bool = True) -> None:
        super().__init__(message)
        self.told = told


def launched() -> bool:
    """Whether torchrun started this process."""
    return dist.is_available() and {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def own_device(device: str) -> str:
    """The card of this process, where several work together on "cuda"; any other device as it is."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if launched() and device.startswith("cuda") else device


def processes() -> int:
    """How many work together; 1 outside :func:`joined`."""
    return dist.get_world_size() if _active() else 1


def rank() -> int:
    """Which of them this is, 0 for the first."""
    return dist.get_rank() if _active() else 0


def is_main() -> bool:
    """Whether this is the one that writes and prints."""
    return rank() == 0


@contextmanager
def joined(device: str = "cpu") -> Iterator[str]:
    """Works together with the other processes of a torchrun for a while.

    Args:
        device: "cpu", or "cuda" for the card of each process's own.

    Yields:
        The device of this process.

    Raises:
        PeerError: Another process failed, or is gone. (The one that failed raises its own error.)
        ValueError: There is no device for this process.
    """
    if not launched():
        yield device
        return
    cuda = device.startswith("cuda")
    if cuda:
        device = own_device(device)
        try:
            torch.cuda.set_device(device)
        except (RuntimeError, AssertionError) as error:  # torch without CUDA raises the latter
            raise ValueError(f"no {device} for process {os.environ['RANK']}: {_first_line(error)}") from error
    store, number, count = next(iter(dist.rendezvous("env://")))
    dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=number, world_size=count, timeout=PATIENCE)
    notes = dist.PrefixStore("fasterrcnn", store)
    try:
        yield device
    except Exception as error:
        mine = f"{number} {type(error).__name__}"
        try:
            first = notes.compare_set("failure", "", mine).decode()
        except RuntimeError:  # the store is gone, and so is the process that kept it
            first = None
        if first not in (None, mine):
            raise PeerError(f"process {first.split()[0]} failed") from error
        if first is None or _connection_lost(error):
            raise PeerError(f"another process is gone ({_first_line(error)})", told=False) from error
        raise  # without taking leave, which would wait for the others
    dist.destroy_process_group()


def summed(values: Tensor) -> Tensor:
    """The sum over all processes of a tensor of one shape, without gradients."""
    if processes() == 1:
        return values
    values = values.detach().clone()
    dist.all_reduce(values)
    return values


def any_of(flag: bool, device: torch.device | str) -> bool:
    """Whether the flag is set in any process."""
    if processes() == 1:
        return flag
    return bool(summed(torch.tensor(float(flag), device=device)))


def gathered(value: Any) -> list[Any]:
    """The value of each process, in their order; anything that pickles."""
    if processes() == 1:
        return [value]
    values: list[Any] = [None] * processes()
    dist.all_gather_object(values, value)
    return values


def agreed(value: Any, what: str) -> Any:
    """A value that must be the same in all processes; without that they would wait for each other for ever.

    Args:
        value: Anything that pickles and compares.
        what: Names it in the error, such as "the number of images".

    Raises:
        ValueError: It is not, in every process; the message has the first two.
    """
    values = gathered(value)
    for number, other in enumerate(values):
        if other != values[0]:
            raise ValueError(f"{what} is {values[0]!r} in process 0, but {other!r} in process {number}")
    return value


def from_main(make: Callable[[], Result]) -> Result:
    """What ``make`` returns in the first process, which alone calls it; OSError and ValueError are raised in all."""
    if processes() == 1:
        return make()
    outcome: list[Any] = [None, None]
    if is_main():
        try:
            outcome[0] = make()
        except (OSError, ValueError) as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _connection_lost(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in ("gloo", "nccl", "connection", "peer"))
