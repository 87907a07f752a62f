"""A whole training from a configuration: data, detector, evaluation on the way, and everything written to one folder.

The folder gets ``config.toml``, ``model.safetensors`` (the last weights), ``best.safetensors`` (the best of all
evaluations), ``checkpoint.pt`` and ``checkpoint_previous.pt``, ``log.jsonl``, ``tensorboard/`` and, at the end,
``evaluation.json``.
"""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from fasterrcnn import checkpoints
from fasterrcnn.build import build
from fasterrcnn.config import RunConfig, read_config, to_toml
from fasterrcnn.data.augment import TrainingView
from fasterrcnn.data.catalog import has_splits, open_dataset
from fasterrcnn.data.dataset import DetectionDataset
from fasterrcnn.distributed import from_main, is_main, processes
from fasterrcnn.evaluation.report import as_table
from fasterrcnn.evaluation.run import Evaluation, evaluate
from fasterrcnn.files import write_text
from fasterrcnn.training.checkpoint import forget_checkpoints, last_checkpoint
from fasterrcnn.training.display import in_words, warn
from fasterrcnn.training.loop import WEIGHTS, train
from fasterrcnn.training.record import CURVES, LOG, Recorder, Unrecorded, read_log
from fasterrcnn.training.schedule import learning_rate

CONFIG = "config.toml"
BEST = "best.safetensors"
EVALUATION = "evaluation.json"
LINES = 20  # of progress where there is no terminal for a bar


@dataclass(frozen=True)
class RunResult:
    """What a training reached.

    Attributes:
        steps: Optimiser steps, earlier runs included.
        seconds: Duration of this run, evaluation included.
        evaluation: Of the last weights on the validation set.
        weights: The last weights.
        best: The weights that were best in an evaluation, by mAP@0.5.
        best_step: After which step those were.
    """

    steps: int
    seconds: float
    evaluation: Evaluation
    weights: Path
    best: Path
    best_step: int


def build_detector(config: RunConfig, num_classes: int) -> nn.Module:
    """The untrained detector of a configuration, with initial weights seeded by ``train.seed``.

    Raises:
        ValueError: The system refuses an argument.
    """
    torch.manual_seed(config.train.seed)
    try:
        return build(config.system, num_classes=num_classes, backbone=config.backbone, **config.model)
    except (TypeError, ValueError) as error:
        raise ValueError(f"model: {config.system} cannot be built: {error}") from error


def open_split(config: RunConfig, split: str) -> DetectionDataset:
    """The "train" or "val" data set of a configuration; the former with its augmentation.

    Raises:
        ValueError: Files that cannot be used, or one set for both splits without saying so.
        OSError: Files that are not there.
    """
    data = config.data
    if data.train_split != data.eval_split and not has_splits(data.name):
        raise ValueError(
            f"data: {data.name} is one set of images. Write {{split}} where the files of {data.train_split} and "
            f'{data.eval_split} differ, or set both splits to "all" to evaluate on the images of the training'
        )
    training = split == "train"
    length, name = (data.train_images, data.train_split) if training else (data.eval_images, data.eval_split)
    files = {"problems": data.problems, "verify": data.verify}
    dataset = open_dataset(data.name, name, length, seed=data.seed, size=data.size, **files)
    if not training:
        return dataset
    augmentation = {"flip": data.flip, "scale_jitter": data.scale_jitter, "group_by_aspect": data.group_by_aspect}
    return TrainingView(dataset, **augmentation)


def _report_data(training: TrainingView, validation: DetectionDataset, name: str, console: Console) -> None:
    """Says what was wrong with files, and refuses splits that number their classes differently."""
    for dataset in (training.dataset, validation):
        problems = getattr(dataset, "problems", [])
        if problems:
            console.print(
                f"{dataset.name}: {problems.summary()}; `fasterrcnn data check {name}` lists them",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
    if tuple(training.class_names) != tuple(validation.class_names):
        raise ValueError(
            f"data: the classes of the training set are {', '.join(training.class_names)}, those of the validation set "
            f"{', '.join(validation.class_names)}"
        )


def run_training(
    config: RunConfig,
    out_dir: Path,
    *,
    resume: bool = True,
    device: str = "cpu",
    console: Console | None = None,
    weights: Path | None = None,
    new_predictors: bool = False,
) -> RunResult:
    """Trains and evaluates.

    Within :func:`fasterrcnn.distributed.joined` all processes call this together; the first one writes and prints.

    Args:
        config: Everything about it.
        out_dir: Folder for what is written; made when missing.
        resume: Go on from a checkpoint in ``out_dir`` if there is one; otherwise begin anew and replace what is there.
        device: Where to train.
        console: Where to tell it; by default standard error.
        weights: Initial weights, of whatever :func:`fasterrcnn.checkpoints.load` reads; a run that goes on has its own.
        new_predictors: Leave out those of the layers that predict classes and boxes, for other classes than the file's.

    Raises:
        ValueError: A configuration its system refuses, or another one than the checkpoint's; weights that do not fit,
            or that are a file this run replaces; or all checkpoints are damaged.
        OSError: Something cannot be written; the last good checkpoint is still there.
        NonFiniteError: See :func:`fasterrcnn.training.loop.train`.
        KeyboardInterrupt: Stopped by Ctrl-C; the same call goes on.
    """
    start = time.perf_counter()
    console = (console or Console(stderr=True)) if is_main() else Console(quiet=True)
    out_dir = Path(out_dir)
    training, validation = open_split(config, "train"), open_split(config, "val")
    _report_data(training, validation, config.data.name, console)
    model = build_detector(config, len(training.class_names)).to(device)
    total = config.train.total_steps(len(training), processes())
    every = _evaluation_interval(config, len(training))
    if config.train.patience is not None and not every:
        raise ValueError("train.patience counts evaluations: set eval.every_steps or eval.every_epochs")
    first = from_main(lambda: _first_step(out_dir, config, resume, console))
    if weights is not None and not first:  # before anything of an earlier run is removed
        if weights.resolve() in [(out_dir / name).resolve() for name in (WEIGHTS, BEST)]:
            raise ValueError(f"{weights} would be replaced by this run: train into another folder")
        report = checkpoints.load(model, weights, predictors=not new_predictors)
        console.print(str(report), markup=False, highlight=False, soft_wrap=True)
    if not first:
        from_main(lambda: _begin(out_dir, config))
    with Recorder(out_dir, first) if is_main() else Unrecorded() as recorder:
        if not recorder.has_curves:
            console.print(
                f"No TensorBoard curves, the package tensorboard is missing (pip install tensorboard); {LOG} has the "
                "same numbers.",
                highlight=False,
                soft_wrap=True,
            )
        judge = _Judge(model, validation, config, out_dir, recorder, first)

        def on_step(step: int, losses: dict[str, float]) -> None:
            if step == first + 1 and is_main():  # not before the loop has accepted the checkpoint
                write_text(out_dir / CONFIG, to_toml(config))
            rate = learning_rate(config.train, step - 1, total)
            recorder.step(step, losses, rate)
            if not console.is_terminal and (step % max(1, total // LINES) == 0 or step == total):
                console.print(f"step {step}/{total}: {in_words(losses, rate)}", highlight=False, soft_wrap=True)
            if step % config.train.checkpoint_every == 0:
                recorder.flush()

        def evaluate_on_the_way(step: int) -> float:
            found = judge(step)
            console.print(f"step {step}/{total}: mAP@0.5 {found.voc.mean:.3f} on the validation set")
            return _number(found.voc.mean)

        result = train(
            model,
            training,
            out_dir,
            config.train,
            resume=resume,
            on_step=on_step,
            evaluate=evaluate_on_the_way,
            evaluate_every=every,
            console=console,
        )
        if result.steps < total:
            console.print(f"Stopped early: {config.train.patience} evaluations without a better one.")
        final = judge(result.steps)
    from_main(lambda: final.save(out_dir / EVALUATION))
    console.print(as_table(final))
    return RunResult(
        result.steps, time.perf_counter() - start, final, out_dir / WEIGHTS, out_dir / BEST, judge.best_step
    )


class _Judge:
    """Evaluates, notes the result, and keeps the best weights."""

    def __init__(
        self,
        model: nn.Module,
        dataset: DetectionDataset,
        config: RunConfig,
        out_dir: Path,
        recorder: Recorder,
        first: int,
    ) -> None:
        self.model, self.dataset, self.config, self.recorder = model, dataset, config.eval, recorder
        self.path = out_dir / BEST
        self.best, self.best_step = -1.0, 0
        self.noted: set[int] = set()
        # Earlier evaluations count, up to the checkpoint.
        for entry in from_main(lambda: list(read_log(out_dir / LOG))):
            if entry["kind"] == "eval" and entry["step"] <= first:
                self.noted.add(entry["step"])
                if entry["map_50"] > self.best and from_main(self.path.exists):
                    self.best, self.best_step = entry["map_50"], entry["step"]

    def __call__(self, step: int) -> Evaluation:
        options = self.config
        found = evaluate(
            self.model, self.dataset, batch_size=options.batch_size, score_threshold=options.score_threshold
        )
        score = _number(found.voc.mean)
        if step not in self.noted:
            self.noted.add(step)
            self.recorder.evaluation(step, {"map_50": score, "map_coco": _number(found.coco.mean)})
        if score > self.best:
            self.best, self.best_step = score, step
            from_main(lambda: checkpoints.save(self.model, self.path))
        return found


def _number(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _evaluation_interval(config: RunConfig, images: int) -> int:
    """Steps between evaluations on the way; 0 for none."""
    if config.eval.every_steps is not None:
        return config.eval.every_steps
    if config.eval.every_epochs is not None:
        return config.eval.every_epochs * max(1, images // config.train.images_per_step(processes()))
    return 0


def _first_step(out_dir: Path, config: RunConfig, resume: bool, console: Console) -> int:
    """The step to go on after, 0 to begin."""
    state = last_checkpoint(out_dir, partial(warn, console)) if resume else None
    if state is None:
        return 0
    _check_same_run(out_dir / CONFIG, config)
    return state["step"]


def _begin(out_dir: Path, config: RunConfig) -> None:
    """Makes the folder ready for a run from its beginning."""
    out_dir.mkdir(parents=True, exist_ok=True)
    _forget(out_dir)
    write_text(out_dir / CONFIG, to_toml(config))


def _check_same_run(path: Path, config: RunConfig) -> None:
    """Refuses to go on with another system or other data; the loop itself compares the settings of the training."""
    if not path.exists():
        return
    then = read_config(path)
    now = replace(config, train=then.train, eval=then.eval)
    if replace(now, data=replace(now.data, eval_images=then.data.eval_images)) != then:
        raise ValueError(
            f"{path} is of another run (its system, model or data differ). Use the same ones to go on, another folder, "
            "or --no-resume to begin anew"
        )


def _forget(out_dir: Path) -> None:
    """Removes what an earlier run of another kind left, so that nothing of it is taken for this one's."""
    forget_checkpoints(out_dir)  # first: killed after it, a run begins anew
    for name in (WEIGHTS, BEST, LOG, EVALUATION):
        (out_dir / name).unlink(missing_ok=True)
    shutil.rmtree(out_dir / CURVES, ignore_errors=True)
