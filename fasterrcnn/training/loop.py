"""A plain training loop: seeded, interruptible, and resuming to the same numbers.

Everything random in a step is a function of (seed, step): which images, what a dataset's augmentation draws from torch,
which anchors and proposals are sampled. So a checkpoint needs no generator states, and a run that was interrupted ends
with bitwise the parameters of one that was not.
"""

from __future__ import annotations

import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fasterrcnn import checkpoints
from fasterrcnn.data.batches import epoch_batches
from fasterrcnn.data.dataset import DetectionDataset
from fasterrcnn.training.display import TrainingProgress
from fasterrcnn.training.failure import NonFiniteError, describe_failure, save_failed_step
from fasterrcnn.training.schedule import TrainConfig, learning_rate, make_optimizer
from fasterrcnn.training.step import Stepper, mixed_seed, step_seed
from fasterrcnn.types import Target
from fasterrcnn.weights import load_state

__all__ = ["CHECKPOINT", "WEIGHTS", "TrainConfig", "TrainResult", "learning_rate", "make_optimizer", "train"]

CHECKPOINT = "checkpoint.pt"
WEIGHTS = "model.safetensors"


@dataclass
class TrainResult:
    """What a run did.

    Attributes:
        steps: Optimiser steps since the very beginning, earlier runs included.
        losses: Of the last step, by name, and their sum as "loss".
        weights: The trained model, for ``checkpoints.load_model``.
    """

    steps: int
    losses: dict[str, float]
    weights: Path


def train(
    model: nn.Module,
    dataset: DetectionDataset,
    out_dir: str | Path,
    config: TrainConfig,
    *,
    resume: bool = True,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    progress: bool = True,
    console: Console | None = None,
) -> TrainResult:
    """Trains a detector.

    Args:
        model: A detector; it is left in training mode. Its ``class_names`` become the dataset's.
        dataset: See :class:`DetectionDataset`; at least ``batch_size`` images.
        out_dir: Made if needed; gets ``checkpoint.pt`` (to resume) and ``model.safetensors`` (to use). Both are
            replaced in one go, so an interruption never leaves half a file. A step that fails leaves
            ``failed_step_NNNNNN.pt``, see :mod:`fasterrcnn.training.failure`.
        config: How to train.
        resume: Go on from a checkpoint in ``out_dir`` if there is one; otherwise begin anew and replace it.
        on_step: Called after each step with its number (1 for the first) and the losses. The model may be evaluated
            there; nothing about the training changes by it.
        progress: Show a progress bar with the losses and the rate (only on a terminal).
        console: Of the progress bar; by default standard error.

    Returns:
        What was done.

    Raises:
        ValueError: Too small a dataset, a precision the model's device has not, or a checkpoint that is damaged or of a
            run with another configuration.
        NonFiniteError: A loss or a gradient is NaN or infinite (a FloatingPointError). The message names the file with
            the batch that caused it.
        KeyboardInterrupt: Ctrl-C; the step is finished and a checkpoint written first. A second Ctrl-C stops at once.

    Note:
        Bitwise the same on the same machine, number of threads and torch version; on CUDA switch on
        ``torch.use_deterministic_algorithms``.
    """
    out_dir = Path(out_dir)
    if len(dataset) < config.batch_size:
        raise ValueError(f"the dataset has {len(dataset)} images, fewer than the batch size {config.batch_size}")
    out_dir.mkdir(parents=True, exist_ok=True)
    model.class_names = tuple(dataset.class_names)
    total = config.total_steps(len(dataset))
    stepper = Stepper(model, config, total)
    step = _restore(out_dir / CHECKPOINT, stepper) if resume else 0
    losses: dict[str, float] = {}

    def save() -> None:
        _save_checkpoint(out_dir / CHECKPOINT, stepper, step)
        checkpoints.save(model, out_dir / WEIGHTS)

    with _interruptible() as interrupted, TrainingProgress(progress, console) as bar:
        task = bar.add_task("training", total=total, completed=step)
        saved = step if step > 0 else -1
        for images, targets in _batches(dataset, config, step, total):
            model.train()
            if config.freeze_bn:
                model.freeze_bn()
            buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
            try:
                losses = stepper(images, targets, step)
            except NonFiniteError as error:
                seed = step_seed(config, step)
                failed = describe_failure(
                    error, model, buffers, images, targets, step=step + 1, seed=seed, config=config
                )
                path = save_failed_step(failed, out_dir)
                raise NonFiniteError(f"{error}. The batch that caused it is in {path}", error.losses) from error
            step += 1
            bar.update(task, completed=step)
            bar.report(losses, learning_rate(config, step - 1, total))
            if on_step is not None:
                on_step(step, losses)
            if step % config.checkpoint_every == 0 or interrupted.is_set():
                save()
                saved = step
            if interrupted.is_set():
                raise KeyboardInterrupt(f"stopped after step {step}; run again to go on from {out_dir / CHECKPOINT}")
        if saved != step or not (out_dir / WEIGHTS).exists():
            save()
    return TrainResult(step, losses, out_dir / WEIGHTS)


class _Seeded:
    """A dataset addressed by (step, index), whose random augmentation depends on nothing else."""

    def __init__(self, dataset: DetectionDataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Target]:
        step, index = key
        torch.manual_seed(mixed_seed(self.seed, step, index))
        return self.dataset[index]


def _batches(
    dataset: DetectionDataset, config: TrainConfig, start: int, total: int
) -> Iterator[tuple[list[Tensor], list[Target]]]:
    """Batches of the steps ``start``…``total`` − 1; every pass shuffles anew, within the data set's ``groups``."""
    per_epoch = len(dataset) // config.batch_size

    def keys() -> Iterator[list[tuple[int, int]]]:
        epoch, batches = -1, []
        for step in range(start, total):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                generator = torch.Generator().manual_seed(mixed_seed(config.seed, -1, epoch))
                groups = getattr(dataset, "groups", None)
                batches = epoch_batches(len(dataset), config.batch_size, generator, groups)
            yield [(step, index) for index in batches[step % per_epoch]]

    yield from DataLoader(
        _Seeded(dataset, config.seed),
        batch_sampler=keys(),
        num_workers=config.num_workers,
        collate_fn=_collate,
        worker_init_fn=_ignore_interrupts,
    )


def _ignore_interrupts(_: int) -> None:
    """Ctrl-C reaches every process of a terminal; the step in progress still needs its images."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _collate(samples: list[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
    return [image for image, _ in samples], [target for _, target in samples]


def _save_checkpoint(path: Path, stepper: Stepper, step: int) -> None:
    state = {
        "step": step,
        "config": asdict(stepper.config),
        "model": stepper.model.state_dict(),
        "optimizer": stepper.optimizer.state_dict(),
        "scaler": stepper.scaler.state_dict(),
    }
    with checkpoints.replacing(path) as temporary:
        torch.save(state, temporary)


def checkpoint_step(path: Path) -> int:
    """The step a checkpoint was made after; 0 if there is none.

    Raises:
        ValueError: The file is damaged.
    """
    return _read_checkpoint(path)["step"] if path.exists() else 0


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}): remove it, or use resume=False, to begin "
            "anew"
        ) from error


def _restore(path: Path, stepper: Stepper) -> int:
    """Loads a checkpoint if there is one; returns the step it was made after."""
    if not path.exists():
        return 0
    state = _read_checkpoint(path)
    # These two change nothing about the numbers.
    harmless = {"num_workers", "checkpoint_every"}
    now, then = asdict(stepper.config), state["config"]
    changed = [f"{k}: {then.get(k)!r}, now {v!r}" for k, v in now.items() if k not in harmless and then.get(k) != v]
    if changed:
        raise ValueError(
            f"{path} is from a run with another configuration ({'; '.join(changed)}). Use the same one to go on, "
            "another folder, or resume=False to begin anew"
        )
    load_state(stepper.model, state["model"], source=path)
    stepper.optimizer.load_state_dict(state["optimizer"])
    stepper.scaler.load_state_dict(state["scaler"])
    return state["step"]


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets. The second Ctrl-C interrupts as ever."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted  # signals can only be handled in the main thread
        return
    previous = signal.getsignal(signal.SIGINT)

    def handle(*_: Any) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, handle)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)
