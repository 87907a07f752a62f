"""Checkpoints of a training: whole or not there, checked when read, and the one before kept.

A folder has ``checkpoint.pt`` and ``checkpoint_previous.pt``. A new one is written beside them and put on the disk, the
last becomes the previous, then the new one gets its name: at every moment one of the two is whole.

The files are zip archives of ``torch.save``. Each entry has a checksum, which torch does not look at and
:func:`read_checkpoint` does: a flipped bit is found.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from fasterrcnn import files
from fasterrcnn.training.schedule import TrainConfig

CHECKPOINT = "checkpoint.pt"
PREVIOUS = "checkpoint_previous.pt"
DAMAGED = "checkpoint_damaged.pt"

# These change nothing about the numbers; of the images of a step it is their number that counts.
_HARMLESS = {"num_workers", "checkpoint_every", "batch_size", "accumulate"}


def write_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Makes ``state`` the folder's last checkpoint and the last one the previous.

    Raises:
        OSError: It cannot be written; the message names the file. The checkpoints there were are still there.
    """
    try:
        with files.replacing(folder / CHECKPOINT, keep=folder / PREVIOUS) as file:
            torch.save(state, file)
    except OSError as error:
        kept = next((name for name in (CHECKPOINT, PREVIOUS) if (folder / name).exists()), None)
        after = f"; the last good checkpoint is {folder / kept}" if kept else ""
        raise OSError(error.errno, f"no checkpoint of step {state['step']}, {error.strerror}{after}") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state in one file, tensors on the CPU.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is damaged or no checkpoint; the message names it.
    """
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"the checksum of {damaged} is wrong")
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
            if not isinstance(state, dict) or not {"step", "config", "model", "optimizer"} <= state.keys():
                raise ValueError("it lacks what a checkpoint has")
        except Exception as error:  # zipfile and torch raise a dozen kinds, depending on where the damage is
            reason = f"{type(error).__name__}: {_first_line(error)}"
            raise ValueError(f"{path} cannot be read as a checkpoint ({reason})") from error
    return state


def last_checkpoint(folder: Path, warn: Callable[[str], None] = lambda _: None) -> dict[str, Any] | None:
    """The state of the last good checkpoint; None where there is none at all.

    A damaged last one is renamed to ``checkpoint_damaged.pt`` where the folder can be written to, so that the next
    write does not make it the previous one.

    Args:
        folder: Of the run.
        warn: Gets a line if the last one is damaged and the one before is used.

    Raises:
        ValueError: There are checkpoints, and all of them are damaged.
    """
    problems = []
    for path in (folder / CHECKPOINT, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            state = read_checkpoint(path)
        except ValueError as error:
            problems.append((path, error))
            continue
        for damaged, problem in problems:
            warn(f"{problem}. Going on from the one before it, {path}, of step {state['step']}")
            try:
                os.replace(damaged, folder / DAMAGED)
            except OSError as error:
                raise OSError(error.errno, f"cannot set {damaged} aside: {error.strerror}") from error
        return state
    if problems:
        found = "; ".join(str(problem) for _, problem in problems)
        raise ValueError(f"{found}. Use resume=False (--no-resume) to begin anew, or another folder")
    return None


def forget_checkpoints(folder: Path) -> None:
    """Removes all checkpoints. The previous one goes first: killed in between, the whole run is still there."""
    for name in (DAMAGED, PREVIOUS, CHECKPOINT):
        (folder / name).unlink(missing_ok=True)


def check_same_training(
    state: dict[str, Any], config: dict[str, Any], images_per_step: int, folder: Path, *, images: int
) -> None:
    """Refuses to go on with settings, or files gone or come since, that would have given other numbers.

    Args:
        state: Of a checkpoint.
        config: The settings now, a :class:`TrainConfig` as a dict.
        images_per_step: Of all processes and parts of a step together.
        folder: Named in the message.
        images: Of the data set.

    Raises:
        ValueError: Lists what differs.
    """
    defaults = {field.name: field.default for field in fields(TrainConfig)}
    then = {**defaults, **state["config"]}
    changed = [f"{k}: {then[k]!r}, now {v!r}" for k, v in config.items() if k not in _HARMLESS and then[k] != v]
    if state["images_per_step"] != images_per_step:
        changed.append(f"images per step: {state['images_per_step']}, now {images_per_step}")
    if state.get("images", images) != images:
        changed.append(f"images of the data set: {state['images']}, now {images}")
    if changed:
        raise ValueError(
            f"{folder / CHECKPOINT} is from a run with another configuration ({'; '.join(changed)}). Use the same one "
            "to go on, another folder, or resume=False (--no-resume) to begin anew"
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
