"""A plain training loop: seeded, interruptible, and resuming to the same numbers.

Everything random in a step is a function of (seed, step): which images, what a dataset's augmentation draws from torch,
which anchors and proposals are sampled. So a checkpoint needs no generator states, and a run that was interrupted ends
with bitwise the parameters of one that was not.
"""

from __future__ import annotations

import math
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fasterrcnn import checkpoints
from fasterrcnn.types import Target
from fasterrcnn.weights import load_state

CHECKPOINT = "checkpoint.pt"
WEIGHTS = "model.safetensors"


class DetectionDataset(Protocol):
    """Images with ground truth. Augmentation may draw from torch's global generator, which the loop seeds per image."""

    class_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, Target]: ...


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults are for small detectors from scratch; the published recipe is :meth:`classic`.

    Attributes:
        steps: Optimiser steps in all; give either these or ``epochs``.
        epochs: Passes over the dataset.
        batch_size: Images per step; the last, incomplete batch of a pass is left out.
        optimizer: "adamw" or "sgd" (momentum 0.9).
        lr: Highest learning rate.
        weight_decay: Of weights; biases and normalisation parameters are not decayed.
        warmup_steps: Steps over which the rate rises linearly.
        schedule: "cosine" to 1 % of ``lr`` at the end, or "constant".
        clip_grad_norm: Bound of the gradient's norm; None for no bound.
        freeze_bn: Keep BatchNorm in evaluation mode, as small batches need it.
        num_workers: Processes that load images; 0 loads in the training process. The numbers do not depend on it.
        checkpoint_every: Steps between checkpoints.
        seed: Of everything random.
    """

    steps: int | None = None
    epochs: int | None = None
    batch_size: int = 4
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-2
    warmup_steps: int = 50
    schedule: str = "cosine"
    clip_grad_norm: float | None = 10.0
    freeze_bn: bool = True
    num_workers: int = 0
    checkpoint_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        for name in ("steps", "epochs", "batch_size", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("warmup_steps", "num_workers", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr must be positive, got {self.lr}")
        if self.optimizer not in ("adamw", "sgd"):
            raise ValueError(f"optimizer must be 'adamw' or 'sgd', got {self.optimizer!r}")
        if self.schedule not in ("cosine", "constant"):
            raise ValueError(f"schedule must be 'cosine' or 'constant', got {self.schedule!r}")

    @classmethod
    def classic(cls, **changes: Any) -> TrainConfig:
        """Fine-tuning from ImageNet weights, after the paper (section 3.1.3): SGD, rate 0.001, decay 0.0005."""
        recipe = {"batch_size": 1, "optimizer": "sgd", "lr": 1e-3, "weight_decay": 5e-4, "schedule": "constant"}
        return cls(**{**recipe, **changes})

    def total_steps(self, dataset_length: int) -> int:
        """Optimiser steps on a dataset of this length."""
        return self.steps if self.steps is not None else self.epochs * (dataset_length // self.batch_size)


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
) -> TrainResult:
    """Trains a detector.

    Args:
        model: A detector; it is left in training mode. Its ``class_names`` become the dataset's.
        dataset: See :class:`DetectionDataset`; at least ``batch_size`` images.
        out_dir: Made if needed; gets ``checkpoint.pt`` (to resume) and ``model.safetensors`` (to use). Both are
            replaced in one go, so an interruption never leaves half a file.
        config: How to train.
        resume: Go on from a checkpoint in ``out_dir`` if there is one; otherwise begin anew and replace it.
        on_step: Called after each step with its number (1 for the first) and the losses.
        progress: Show a progress bar (only on a terminal).

    Returns:
        What was done.

    Raises:
        ValueError: Too small a dataset, or a checkpoint that is damaged or of a run with another configuration.
        FloatingPointError: A loss is NaN or infinite.
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
    optimizer = make_optimizer(model, config)
    total = config.total_steps(len(dataset))
    step = _restore(out_dir / CHECKPOINT, model, optimizer, config) if resume else 0
    losses: dict[str, float] = {}

    def save() -> None:
        _save_checkpoint(out_dir / CHECKPOINT, model, optimizer, config, step)
        checkpoints.save(model, out_dir / WEIGHTS)

    with _interruptible() as interrupted, _progress(progress) as bar:
        task = bar.add_task("training", total=total, completed=step, loss=math.nan)
        saved = step if step > 0 else -1
        for images, targets in _batches(dataset, config, step, total):
            model.train()
            if config.freeze_bn:
                model.freeze_bn()
            losses = _step(model, optimizer, images, targets, config, step, total)
            step += 1
            bar.update(task, completed=step, loss=losses["loss"])
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


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of a configuration; only weights of two or more dimensions decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=config.lr)


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """Rate of step ``step`` (0 is the first) of ``total``."""
    rate = config.lr * min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "cosine":
        rate *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / max(1, total)))
    return rate


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: list[Tensor],
    targets: list[Target],
    config: TrainConfig,
    step: int,
    total: int,
) -> dict[str, float]:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, step, total)
    seed = _seed(config.seed, step)
    torch.manual_seed(seed)  # dropout and the like
    model.generator.manual_seed(seed)
    terms = model(images, targets)
    loss = torch.stack(list(terms.values())).sum()
    values = {name: float(term.detach()) for name, term in terms.items()}
    values["loss"] = float(loss.detach())
    if not math.isfinite(values["loss"]):
        listed = ", ".join(f"{name} {value:g}" for name, value in values.items())
        raise FloatingPointError(
            f"the loss of step {step + 1} is not finite ({listed}). {_advice(config, step, total)}"
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad_norm or math.inf)
    if not math.isfinite(norm):
        # One such step would put NaN into every parameter, and into the next checkpoint.
        raise FloatingPointError(f"the gradient of step {step + 1} is not finite. {_advice(config, step, total)}")
    optimizer.step()
    return values


def _advice(config: TrainConfig, step: int, total: int) -> str:
    return (
        "The parameters and the last checkpoint are from before it; a lower learning rate "
        f"(now {learning_rate(config, step, total):g}) or a longer warm-up usually helps"
    )


def _seed(*parts: int) -> int:
    """A 63-bit seed out of several numbers; neighbouring numbers give unrelated seeds (SplitMix64)."""
    value = 0
    for part in parts:
        value = (value + part + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        value ^= value >> 31
    return value >> 1


class _Seeded:
    """A dataset addressed by (step, index), whose random augmentation depends on nothing else."""

    def __init__(self, dataset: DetectionDataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Target]:
        step, index = key
        torch.manual_seed(_seed(self.seed, step, index))
        return self.dataset[index]


def _batches(
    dataset: DetectionDataset, config: TrainConfig, start: int, total: int
) -> Iterator[tuple[list[Tensor], list[Target]]]:
    """Batches of the steps ``start``…``total`` − 1; every pass shuffles anew."""
    per_epoch = len(dataset) // config.batch_size

    def keys() -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, []
        for step in range(start, total):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                generator = torch.Generator().manual_seed(_seed(config.seed, -1, epoch))
                order = torch.randperm(len(dataset), generator=generator).tolist()
            first = step % per_epoch * config.batch_size
            yield [(step, index) for index in order[first : first + config.batch_size]]

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


def _save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig, step: int
) -> None:
    state = {
        "step": step,
        "config": asdict(config),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    with checkpoints.replacing(path) as temporary:
        torch.save(state, temporary)


def _restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig) -> int:
    """Loads a checkpoint if there is one; returns the step it was made after."""
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}): remove it, or use resume=False, to begin "
            "anew"
        ) from error
    # These two change nothing about the numbers.
    harmless = {"num_workers", "checkpoint_every"}
    now, then = asdict(config), state["config"]
    changed = [f"{k}: {then.get(k)!r}, now {v!r}" for k, v in now.items() if k not in harmless and then.get(k) != v]
    if changed:
        raise ValueError(
            f"{path} is from a run with another configuration ({'; '.join(changed)}). Use the same one to go on, "
            "another folder, or resume=False to begin anew"
        )
    load_state(model, state["model"], source=path)
    optimizer.load_state_dict(state["optimizer"])
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


def _progress(show: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
        console=console,
        disable=not (show and console.is_terminal),
    )
