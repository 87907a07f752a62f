"""The numbers of a training in files: one line of JSON per step or evaluation, and curves for TensorBoard."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fasterrcnn.files import write_text

LOG = "log.jsonl"
CURVES = "tensorboard"


class Recorder:
    """Writes ``log.jsonl`` and, where the ``tensorboard`` package is installed, the folder ``tensorboard``.

    A resumed run goes on writing where its checkpoint was; what an interrupted run wrote after it is dropped.

    Args:
        out_dir: Folder of the run; made when missing.
        first_step: Steps done before; 0 begins anew.
        curves: False for no TensorBoard.

    Attributes:
        has_curves: Whether TensorBoard's files are written.
    """

    def __init__(self, out_dir: Path, first_step: int = 0, *, curves: bool = True) -> None:
        out_dir.mkdir(parents=True, exist_ok=True)
        path = out_dir / LOG
        kept = [entry for entry in read_log(path) if entry["step"] <= first_step] if first_step else []
        # In one go: the lines kept must survive being killed here.
        write_text(path, "".join(json.dumps(entry) + "\n" for entry in kept))
        self._path, self._curves = path, out_dir / CURVES
        # Line by line, so that a killed process loses none it wrote.
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._writer = _summary_writer(out_dir / CURVES, first_step) if curves else None
        self.has_curves = self._writer is not None

    def step(self, step: int, losses: dict[str, float], rate: float) -> None:
        """Notes a training step: its number (1 for the first), its losses and its learning rate."""
        self._note("train", step, {**losses, "lr": rate})

    def evaluation(self, step: int, numbers: dict[str, float]) -> None:
        """Notes an evaluation after a step."""
        self._note("eval", step, numbers)
        self.flush()

    def flush(self) -> None:
        """Puts everything on the disk."""
        with _named(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
        if self._writer is not None:
            with _named(self._curves):
                self._writer.flush()

    def close(self) -> None:
        """Ends the files."""
        with _named(self._path):
            self._file.close()
        if self._writer is not None:
            with _named(self._curves):
                self._writer.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _note(self, kind: str, step: int, numbers: dict[str, float]) -> None:
        self._write({"kind": kind, "step": step, **numbers})
        if self._writer is not None:
            with _named(self._curves):
                for name, value in numbers.items():
                    self._writer.add_scalar(f"{kind}/{name}", value, step)

    def _write(self, entry: dict[str, Any]) -> None:
        with _named(self._path):
            self._file.write(json.dumps(entry) + "\n")


class Unrecorded(Recorder):
    """Of the processes that write nothing."""

    has_curves = True

    def __init__(self) -> None:
        pass

    def step(self, step: int, losses: dict[str, float], rate: float) -> None:
        """Nothing."""

    def evaluation(self, step: int, numbers: dict[str, float]) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a ``log.jsonl``: ``kind`` ("train" or "eval"), ``step``, and numbers by name.

    A last line that was cut off by an interruption is left out; without the file there are none.

    Raises:
        ValueError: Another line is damaged; the message names the file.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: no JSON ({error})") from error


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of writing to open files do not say which; here they do."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error


def _summary_writer(folder: Path, first_step: int) -> Any:
    """torch's writer, or None without the package it needs."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else None)
