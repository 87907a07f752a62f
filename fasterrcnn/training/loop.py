"""A plain training loop: seeded, interruptible, and resuming to the same numbers.

Everything random in a step is a function of (seed, step): which images, what a dataset's augmentation draws from torch,
which anchors and proposals are sampled. So the number of the step is the whole state of sampler and generators, and a
run that was interrupted, by whatever and wherever, ends with bitwise the parameters of one that was not.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from fasterrcnn import checkpoints
from fasterrcnn.data.dataset import DetectionDataset
from fasterrcnn.files import remove_leftovers
from fasterrcnn.training.batches import step_batches
from fasterrcnn.training.checkpoint import (
    CHECKPOINT,
    check_same_training,
    forget_checkpoints,
    last_checkpoint,
    write_checkpoint,
)
from fasterrcnn.training.display import TrainingProgress, warn
from fasterrcnn.training.failure import NonFiniteError, describe_failure, save_failed_step
from fasterrcnn.training.schedule import TrainConfig, learning_rate, make_optimizer
from fasterrcnn.training.step import Stepper, step_seed

__all__ = ["CHECKPOINT", "WEIGHTS", "TrainConfig", "TrainResult", "learning_rate", "make_optimizer", "train"]

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
        out_dir: Made if needed; gets ``checkpoint.pt`` and ``checkpoint_previous.pt`` (to resume, see
            :mod:`fasterrcnn.training.checkpoint`) and ``model.safetensors`` (to use). Each is replaced in one go, so
            that being killed never leaves half a file. A step that fails leaves ``failed_step_NNNNNN.pt``, see
            :mod:`fasterrcnn.training.failure`.
        config: How to train.
        resume: Go on from the last good checkpoint in ``out_dir`` if there is one; otherwise begin anew and replace it.
        on_step: Called after each step with its number (1 for the first) and the losses. The model may be evaluated
            there; nothing about the training changes by it.
        progress: Show a progress bar with the losses and the rate (only on a terminal).
        console: Of the progress bar; by default standard error.

    Returns:
        What was done.

    Raises:
        ValueError: Too small a dataset, a precision the model's device has not, or a checkpoint of a run with another
            configuration; or all checkpoints are damaged. (If the last one alone is, a line says so and the one before
            is used.)
        OSError: Something cannot be written, as on a full disk or in a read-only folder; the message names it. The last
            good checkpoint is still there.
        NonFiniteError: A loss or a gradient is NaN or infinite (a FloatingPointError). The message names the file with
            the batch that caused it.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the step is finished and a checkpoint written first. A second Ctrl-C stops
            at once.

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
    console = console or Console(stderr=True)
    remove_leftovers(out_dir)
    if not resume:
        forget_checkpoints(out_dir)
    step = _restore(out_dir, stepper, console)
    losses: dict[str, float] = {}

    def save() -> None:
        # The checkpoint last: where it says the training is over, the weights are the last ones.
        checkpoints.save(model, out_dir / WEIGHTS)
        write_checkpoint(out_dir, {"step": step, "images_per_step": config.batch_size, **stepper.state()})

    with _interruptible() as interrupted, TrainingProgress(progress, console) as bar:
        task = bar.add_task("training", total=total, completed=step)
        saved = step if step > 0 else -1
        for images, targets in step_batches(
            dataset, config.batch_size, config.seed, step, total, num_workers=config.num_workers
        ):
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


def _restore(folder: Path, stepper: Stepper, console: Console) -> int:
    """Loads the last good checkpoint if there is one; returns the step it was made after."""
    state = last_checkpoint(folder, partial(warn, console))
    if state is None:
        return 0
    check_same_training(state, asdict(stepper.config), stepper.config.batch_size, folder)
    stepper.restore(state, source=folder / CHECKPOINT)
    return state["step"]


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set. The second of them acts as ever."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted  # signals can only be handled in the main thread
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def handle(*_: Any) -> None:
        interrupted.set()
        restore()

    for number in previous:
        signal.signal(number, handle)
    try:
        yield interrupted
    finally:
        restore()
