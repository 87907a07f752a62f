"""What the commands share: where they print, and options that are checked alike."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

if TYPE_CHECKING:
    from torch import nn

console = Console()
errors = Console(stderr=True)

DATA_HELP = 'Data set: "shapes" (default), "scenes", "voc:FOLDER", "coco:FOLDER" or "coco:JSON:IMAGES".'
SMALL = 5_000_000  # parameters


def check_device(name: str) -> None:
    import torch

    from fasterrcnn.distributed import own_device

    try:
        torch.zeros(1, device=own_device(name)).tolist()  # "meta" makes tensors, but none with values
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch without CUDA raises an AssertionError
        raise typer.BadParameter(f"{name}: {str(error).splitlines()[0]}", param_hint="--device") from error


def load_detector(weights: Path, device: str) -> nn.Module:
    """The detector of a weights file, on a device; a usage error where there is none."""
    from fasterrcnn import checkpoints

    check_device(device)
    try:
        return checkpoints.load_model(weights, device=device)
    except (OSError, ValueError, RuntimeError) as error:
        missing = not Path(weights).is_file()
        reason = f"no such file: {weights}" if missing else f"cannot load {weights}: {error}"
        raise typer.BadParameter(reason, param_hint="--weights") from error


@contextmanager
def threads(wanted: int | None, parameters: int) -> Iterator[None]:
    """Uses so many CPU threads for a while.

    Args:
        wanted: By default 1 for small detectors, whose operators are too short to share (a second thread gains little
            on an idle machine and costs much on a busy one), and torch's choice for others.
        parameters: Of the detector.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(wanted or (1 if parameters < SMALL else before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def reported() -> Iterator[None]:
    """Turns what goes wrong for the user's own reasons into one line and an exit code: 2, or 130 for Ctrl-C.

    Of several processes those that only learn of it end without a line.
    """
    from fasterrcnn.distributed import PeerError, launched
    from fasterrcnn.training.failure import NonFiniteError

    where = f" in process {os.environ['RANK']}" if launched() and os.environ["WORLD_SIZE"] != "1" else ""
    try:
        yield
    except PeerError as error:
        if not error.told:
            errors.print(f"Error{where}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except (OSError, ValueError, ImportError, NonFiniteError) as error:
        errors.print(f"Error{where}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1 if isinstance(error, NonFiniteError) else 2) from error
    except KeyboardInterrupt as interruption:
        if not where or os.environ["RANK"] == "0":
            errors.print(str(interruption) or "Stopped.", markup=False, highlight=False)
        raise typer.Exit(130) from interruption
