"""The models stage: whole detectors and their training steps, ours against torchvision's of the same weights.

Rows come in three kinds: ``detect`` (plain calls, and ours in a CUDA graph), ``train`` (forward, backward, optimiser),
``compiled`` (torch.compile). Contenders:

* ours: ``optimize_for_inference(dtype)``, from a list of images to a list of detections.
* theirs: torchvision's detector on the same weights as built; bfloat16 is autocast, as torchvision has it.
* theirs_same_modules: torchvision's detector on ours' own optimised modules, so that only what surrounds them differs.

In training both are as built, and bfloat16 is autocast for both. Results are compared before anything is timed.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fasterrcnn import CudaGraphed
from fasterrcnn.model import TwoStageDetector
from fasterrcnn.padded import unpadded

from .agreement import same_selection
from .arithmetic import summary
from .case import DTYPES
from .rivals import ours_by_their_rules, pictures, theirs_around, trainable_copy, truth
from .rows import Task, measure_all
from .stages import Result, Settings
from .timing import Call, in_turns

# Height and width: multiples of 32, to which torchvision pads.
SIZES = {"classic_vgg16": (608, 800), "resnet50_c4": (800, 1056)}
TINY_SIZE = (64, 96)
BATCHES = (1, 8)
PRECISIONS = ("float32", "bfloat16")
CAPTURED = ("ours_graph",)
# By kind, the seconds a full-size row may take, building and compiling included. A guess until it is measured.
NEEDS = {"detect": 30.0, "train": 30.0, "compiled": 150.0}
LONGEST_HEAD_START = 0.05  # seconds of delay before a call whose GPU time is taken
# By precision: of two detections that are one, the largest difference of scores and of coordinates in pixels, and how
# many may be without a counterpart where the modules are the same. A pooled feature may be rounded differently.
TWINS = {"float32": (1e-3, 0.5, 0.05), "bfloat16": (3e-2, 4.0, 0.25)}
LEARNING_RATE = 1e-6  # the weights are random; they are not to run away


@dataclass(frozen=True)
class Subject:
    """What a row is about."""

    kind: str
    system: str
    batch: int
    dtype: str
    tiny: bool = False

    @property
    def size(self) -> tuple[int, int]:
        return TINY_SIZE if self.tiny else SIZES[self.system]

    @property
    def name(self) -> str:
        return f"{self.kind} {self.system} {self.batch}x{self.size[0]}x{self.size[1]} {self.dtype}"

    @property
    def labels(self) -> dict[str, Any]:
        shape = [self.batch, *self.size]
        return {"kind": self.kind, "system": self.system, "shape": shape, "dtype": self.dtype}


def subjects(tiny: bool = False) -> list[Subject]:
    """Every row in the order of the table; compiling takes longest and comes last."""
    return [
        Subject(kind, system, batch, dtype, tiny)
        for kind in NEEDS
        for system in SIZES
        for batch in BATCHES
        for dtype in PRECISIONS
    ]


def run_rows(settings: Settings, kinds: Sequence[str]) -> Result:
    """Measures every row of these kinds that ``settings.only`` names; ``compiled`` alone is a stage of that name."""
    from .timing import Meter

    chosen = [subject for subject in subjects() if subject.kind in kinds]
    stage = "compiled" if tuple(kinds) == ("compiled",) else "models"
    return measure_subjects(chosen, Meter(torch.device("cuda")), settings, stage)


def measure_subjects(chosen: list[Subject], meter: Any, settings: Settings, stage: str = "models") -> Result:
    """``run_rows`` of the subjects given."""

    def task(subject: Subject) -> Task:
        needs = 0.0 if subject.tiny else NEEDS[subject.kind]
        return Task(subject.name, subject.labels, lambda _: measure(subject, meter, settings.seconds), needs)

    tasks = [task(subject) for subject in chosen]
    code, content = measure_all(stage, tasks, settings, {})
    print(table(content["rows"]))
    return code, content


# --- contenders ------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)  # rows of one system follow one another
def built(system: str, device: torch.device, tiny: bool) -> TwoStageDetector:
    return ours_by_their_rules(system, device, tiny=tiny)


def precision(dtype: str, device: torch.device) -> contextlib.AbstractContextManager:
    """Autocast to it, or nothing for float32."""
    return contextlib.nullcontext() if dtype == "float32" else torch.autocast(device.type, DTYPES[dtype])


def makers(subject: Subject, device: torch.device) -> dict[str, Callable[[], Call]]:
    """By name, what builds a contender and gives the call to be timed."""
    height, width = subject.size
    images = list(pictures(subject.batch, subject.size, 1, device))
    model = built(subject.system, device, subject.tiny)
    if subject.kind == "train":
        targets = truth(subject.batch, subject.size, 2, device)
        return {
            "theirs": lambda: training_step(theirs_around(trainable_copy(model)), images, targets, subject.dtype),
            "ours": lambda: training_step(trainable_copy(model), images, targets, subject.dtype),
        }

    def optimized() -> TwoStageDetector:
        return model.optimize_for_inference(DTYPES[subject.dtype])

    backend = "inductor" if device.type == "cuda" else "eager"

    def theirs(compiled: bool = False) -> Call:
        detector = theirs_around(copy.deepcopy(model))
        if compiled:
            detector = torch.compile(detector, dynamic=False, backend=backend)
        return detecting(detector, images, precision(subject.dtype, device))

    def ours() -> Call:
        fast = optimized()
        return lambda: listed(fast.detect(images))

    def graph() -> Call:
        """Captures in the first call, so that its memory can be told from that of optimising."""
        fast = optimized()
        graphed = functools.cache(lambda: CudaGraphed(fast, [(subject.batch, height, width)]))
        return lambda: listed(graphed().detect(images))

    def compiled() -> Call:
        return compiled_detect(optimized(), images, backend)

    if subject.kind == "compiled":
        return {"theirs": theirs, "theirs_compiled": lambda: theirs(compiled=True), "ours_compiled": compiled}
    same_modules = {"theirs_same_modules": lambda: detecting(theirs_around(optimized()), images)}
    return {"theirs": theirs, **same_modules, "ours": ours, "ours_graph": graph}


def listed(detections: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Boxes, labels and scores of every image."""
    return tuple([getattr(of_image, name) for of_image in detections] for name in ("boxes", "labels", "scores"))


def detecting(
    detector: Any, images: list[Tensor], cast: contextlib.AbstractContextManager | None = None
) -> Callable[[], tuple[list[Tensor], ...]]:
    """A call of torchvision's detector that gives what ``listed`` gives."""

    def call() -> tuple[list[Tensor], ...]:
        with torch.no_grad(), cast or contextlib.nullcontext():
            found = detector(images)
        return tuple([of_image[name] for of_image in found] for name in ("boxes", "labels", "scores"))

    return call


@functools.cache  # once a process
def settle(device: torch.device, dtype: str) -> None:
    """A training step of each side, tiny: allocates what a process allocates once, such as workspaces of cuBLAS."""
    model = ours_by_their_rules("resnet50_c4", device, tiny=True)
    images, targets = list(pictures(1, TINY_SIZE, 1, device)), truth(1, TINY_SIZE, 2, device)
    for detector in (theirs_around(trainable_copy(model)), trainable_copy(model)):
        training_step(detector, images, targets, dtype)()


def compiled_detect(model: TwoStageDetector, images: list[Tensor], backend: str) -> Call:
    """``model.detect`` with a compiled ``forward_padded``, without a graph break."""
    forward = torch.compile(model.forward_padded, fullgraph=True, dynamic=False, backend=backend)

    def call() -> tuple[list[Tensor], ...]:
        with torch.no_grad():
            batch = model.batcher.collate(images, device=model.device)
            padded = forward(batch.images, batch.image_sizes(), batch.image_scales())
            return listed(unpadded(padded, batch))

    return call


def training_step(detector: Any, images: list[Tensor], targets: list[dict], dtype: str) -> Callable[[], Tensor]:
    """Forward, backward and a step of SGD with momentum; gives the sum of the losses."""
    optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], LEARNING_RATE, momentum=0.9)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with precision(dtype, images[0].device):
            losses = detector(images, targets)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        optimizer.step()
        return total.detach()

    return step


# --- measuring -------------------------------------------------------------------------------------------------------


def compare(subject: Subject, results: Mapping[str, Any]) -> str:
    """How the contenders' results match, in words.

    Raises:
        AssertionError: Contenders of the same modules disagree, nothing was detected, or a loss is not finite.
    """
    if subject.kind == "train":
        losses = {name: float(total) for name, total in results.items()}
        assert all(0 < loss < float("inf") for loss in losses.values()), f"losses are not finite: {losses}"
        said = ", ".join(f"{name} {loss:.3g}" for name, loss in losses.items())
        return f"losses finite, of different samples: {said}"
    first = next(name for name in ("theirs_same_modules", "theirs") if name in results)
    score, pixels, share = TWINS[subject.dtype]
    assert all(len(of_image) for of_image in results[first][0]), "an image without detections"
    words = []
    for name, found in results.items():
        # Other modules, or others' compiled ones: rounded differently in every layer; told, and not judged.
        same_modules = first == "theirs_same_modules" and name.startswith("ours")
        if name != first:
            agree = same_selection(score, pixels, share if same_modules else 2.0)
            words.append(f"{name} and {first}: {agree(found, results[first])}")
    return "; ".join(words)


def measure(subject: Subject, meter: Any, seconds: float) -> dict[str, Any]:
    """One row: results compared, peak memory of each contender, wall and GPU time in turns.

    Args:
        subject: Of the row.
        meter: The device's clocks and its memory.
        seconds: Rough time to spend on sampling.

    Returns:
        ``match``, ``notes``; ``times``: by contender ``wall`` and ``gpu`` in microseconds, and ``peak_bytes``, the most
        that it held beyond what was there before it was built, its weights included, in a call or, for a graph, whose
        replays allocate nothing, in capturing; ``ratios``.

    Raises:
        AssertionError: See :func:`compare`.
    """
    if subject.kind == "compiled":
        torch._dynamo.reset()
    if subject.kind == "train":
        settle(meter.device, subject.dtype)  # or the first contender would pay for both
    gc.collect()  # what rows before this one left
    peaks, results, notes = {}, {}, []
    samplers: dict[str, Callable[[], float]] = {}
    for name, make in makers(subject, meter.device).items():
        before = meter.allocated()
        try:
            call = make()
            once = meter.peak(call)  # what happens only once: kernels chosen, workspaces, compilation, capturing
            results[name] = call()
        except Exception as error:  # of a compiler whatever it throws
            if name != "theirs_compiled":
                raise
            notes.append(f"{name}: cannot be compiled: {type(error).__name__}: {error}".splitlines()[0])
            continue
        peaks[name] = (once if name in CAPTURED else meter.peak(call)) - before
        head_start = min(2 * meter.wall(call), LONGEST_HEAD_START)
        samplers[f"{name} wall"] = functools.partial(meter.wall, call)
        samplers[f"{name} gpu"] = functools.partial(meter.gpu, [call], head_start)
    match = compare(subject, results)
    samples = in_turns(samplers, seconds)
    times = {
        name: {kind: summary(samples[f"{name} {kind}"]) for kind in ("wall", "gpu")} | {"peak_bytes": peaks[name]}
        for name in peaks
    }
    return {"match": match, "notes": notes, "times": times, "ratios": ratios(times)}


def ratios(times: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Of each of our contenders torchvision's median, or peak, over ours; None where one is 0."""

    def of(ours: str) -> dict[str, float | None]:
        theirs, own = times["theirs"], times[ours]
        medians = {kind: (theirs[kind]["median"], own[kind]["median"]) for kind in ("wall", "gpu")}
        pairs = {**medians, "peak": (theirs["peak_bytes"], own["peak_bytes"])}
        return {kind: one / other if other > 0 else None for kind, (one, other) in pairs.items()}

    return {name: of(name) for name in times if name.startswith("ours")}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line a contender; one line, with the reason, for a row that was not measured."""
    head = ["row", "contender", "wall ms", "GPU ms", "peak MB", "theirs ÷ ours: wall", "GPU", "peak"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        if "error" in row:
            reason = row["error"].splitlines()[0].replace("|", "/")
            lines.append(f"| {row['name']} | failed | {reason} |{' n/a |' * (len(head) - 3)}")
            continue
        for name, times in row["times"].items():
            cells = [row["name"], name]
            for kind in ("wall", "gpu"):
                cells.append(
                    "{median:.3g} ({p10:.3g}–{p90:.3g})".format(
                        **{key: times[kind][key] / 1e3 for key in ("median", "p10", "p90")}
                    )
                )
            cells.append(f"{times['peak_bytes'] / 1e6:.0f}")
            found = row["ratios"].get(name, {})
            for kind in ("wall", "gpu", "peak"):
                ratio = found.get(kind)
                cells.append("n/a" if ratio is None else f"{ratio:.2f}×")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
