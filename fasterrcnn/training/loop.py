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
from fasterrcnn.distributed import agreed, any_of, from_main, gathered, is_main, processes, rank
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
    evaluate: Callable[[int], float] | None = None,
    evaluate_every: int = 0,
    progress: bool = True,
    console: Console | None = None,
) -> TrainResult:
    """Trains a detector.

    Within :func:`fasterrcnn.distributed.joined` all processes call this together, with the same arguments; the first
    writes. N processes train like one with batches N times as large.

    Args:
        model: A detector; it is left in training mode, with the moving average of the weights with ``ema_decay``. Its
            ``class_names`` become the dataset's.
        dataset: See :class:`DetectionDataset`; images for at least one step.
        out_dir: Made if needed; gets ``checkpoint.pt`` and ``checkpoint_previous.pt`` (to resume, see
            :mod:`fasterrcnn.training.checkpoint`) and ``model.safetensors`` (to use). Each is replaced in one go, so
            that being killed never leaves half a file. A step that fails leaves ``failed_step_NNNNNN.pt``, see
            :mod:`fasterrcnn.training.failure`.
        config: How to train.
        resume: Go on from the last good checkpoint in ``out_dir`` if there is one; otherwise begin anew and replace it.
        on_step: Called after each step with its number (1 for the first) and the losses. The model may be evaluated
            there; nothing about the training changes by it.
        evaluate: Called with the number of the step after every ``evaluate_every`` steps but the last, when the model
            has the weights to evaluate: those of the moving average with ``ema_decay``. Returns how good they are,
            greater is better, for ``patience``.
        evaluate_every: Steps between evaluations; 0 for none.
        progress: Show a progress bar with the losses and the rate (only on a terminal).
        console: Of the progress bar; by default standard error.

    Returns:
        What was done.

    Raises:
        ValueError: Too small a dataset, or one that has other images in another process; a precision the model's device
            has not; a checkpoint of a run with another configuration or number of images; or all checkpoints are
            damaged. (If the last one alone is, a line says so and the one before is used.)
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
    parts = processes()
    agreed(len(dataset), "the number of images to train on")
    images_per_step = config.images_per_step(parts)
    if len(dataset) < images_per_step:
        raise ValueError(f"the dataset has {len(dataset)} images, fewer than the batch size {images_per_step}")
    model.class_names = tuple(dataset.class_names)
    total = config.total_steps(len(dataset), parts)
    stepper, stopping = Stepper(model, config, total), EarlyStopping(config.patience)
    console = console or Console(stderr=True)
    state = from_main(lambda: _prepare(out_dir, resume, console))
    step = 0
    if state is not None:
        check_same_training(state, asdict(config), images_per_step, out_dir, images=len(dataset))
        stepper.restore(state, source=out_dir / CHECKPOINT)
        stopping.restore(state["stopping"])
        step = state["step"]
    losses: dict[str, float] = {}

    def write() -> None:
        # The checkpoint last: where it says the training is over, the weights are the last ones.
        with stepper.averaged():
            checkpoints.save(model, out_dir / WEIGHTS)
        state = {
            "step": step,
            "images": len(dataset),
            "images_per_step": images_per_step,
            "stopping": stopping.state(),
            **stepper.state(),
        }
        write_checkpoint(out_dir, state)

    with _interruptible() as interrupted, TrainingProgress(progress and is_main(), console) as bar:
        task = bar.add_task("training", total=total, completed=step)
        saved = step if step > 0 else -1
        end = step if stopping.over else total
        for images, targets in step_batches(
            dataset,
            images_per_step,
            config.seed,
            step,
            end,
            num_workers=config.num_workers,
            rank=rank(),
            processes=parts,
        ):
            model.train()
            if config.freeze_bn:
                model.freeze_bn()
            buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
            try:
                losses = stepper(images, targets, step)
            except NonFiniteError as error:
                path = None
                if error.here:
                    seed, before = step_seed(config, step), rank() * len(images)
                    failed = describe_failure(
                        error, model, buffers, images, targets, step=step + 1, seed=seed, config=config, before=before
                    )
                    path = save_failed_step(failed, out_dir)
                paths = " and ".join(str(path) for path in gathered(path) if path is not None)
                raise NonFiniteError(f"{error}. The batch that caused it is in {paths}", error.losses) from error
            step += 1
            bar.update(task, completed=step)
            bar.report(losses, learning_rate(config, step - 1, total))
            if on_step is not None:
                on_step(step, losses)
            if evaluate is not None and evaluate_every and step % evaluate_every == 0 and step < total:
                with stepper.averaged():
                    stopping.update(evaluate(step))
            stop = any_of(interrupted.is_set(), model.device)
            if step % config.checkpoint_every == 0 or stop or stopping.over:
                from_main(write)
                saved = step
            if stop:
                raise KeyboardInterrupt(f"stopped after step {step}; run again to go on from {out_dir / CHECKPOINT}")
            if stopping.over:
                break
        if saved != step or not from_main((out_dir / WEIGHTS).exists):
            from_main(write)
    stepper.finish()
    return TrainResult(step, losses, out_dir / WEIGHTS)


class EarlyStopping:
    """Counts evaluations without a better result.

    Args:
        patience: How many in a row end the training; None for any number.

    Attributes:
        over: Whether it has ended.
    """

    def __init__(self, patience: int | None) -> None:
        self.patience, self.best, self.stale = patience, -1.0, 0

    def update(self, score: float) -> None:
        """Takes in a result, greater is better."""
        self.best, self.stale = (score, 0) if score > self.best else (self.best, self.stale + 1)

    @property
    def over(self) -> bool:
        return self.patience is not None and self.stale >= self.patience

    def state(self) -> dict[str, float | int]:
        """What going on needs."""
        return {"best": self.best, "stale": self.stale}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to a state."""
        self.best, self.stale = state["best"], state["stale"]


def _prepare(folder: Path, resume: bool, console: Console) -> dict[str, Any] | None:
    """Makes the folder ready; returns the state to go on from, None to begin."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    if resume:
        return last_checkpoint(folder, partial(warn, console))
    forget_checkpoints(folder)
    return None


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set. The second of either acts as ever."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted  # signals can only be handled in the main thread
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, _: Any) -> None:
        interrupted.set()
        signal.signal(number, previous[number])

    for number in previous:
        signal.signal(number, handle)
    try:
        yield interrupted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
