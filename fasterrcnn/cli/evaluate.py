"""``fasterrcnn eval``: how good the weights of a file are."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fasterrcnn.cli.common import DATA_HELP, console, errors, load_detector, reported, threads

if TYPE_CHECKING:
    from fasterrcnn.data.dataset import DetectionDataset


def evaluate(
    weights: Annotated[Path, typer.Option(help="Weights of a detector (safetensors), as training writes them.")],
    data: Annotated[str, typer.Option(help=DATA_HELP)] = "shapes",
    split: Annotated[str, typer.Option(help='"train", "val" or "test"; of files what they call it.')] = "val",
    images: Annotated[int | None, typer.Option(min=1, help="How many images; default: 200, of files all.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the generated images.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for JSON and curves.", file_okay=False)] = Path("evaluation"),
    score_threshold: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Least score that counts; default: the detector's.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 8,
    device: Annotated[str, typer.Option(help='Where to run, such as "cpu" or "cuda".')] = "cpu",
    thread_count: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads; default: 1 for small detectors.")
    ] = None,
) -> None:
    """Measure a detector: average precision of VOC and COCO per class, as table, JSON and precision-recall curves.

    Under torchrun several processes share the images.
    """
    from fasterrcnn import distributed
    from fasterrcnn.data.catalog import is_generated
    from fasterrcnn.evaluation import evaluate as run
    from fasterrcnn.evaluation.report import as_table, plot_precision_recall

    with reported(), distributed.joined(device) as device:
        model = load_detector(weights, device)
        with threads(thread_count, sum(p.numel() for p in model.parameters())):
            dataset = _open(data, split, images or (200 if is_generated(data) else None), seed, model.class_names)
            main = distributed.is_main()
            if main:
                out.mkdir(parents=True, exist_ok=True)
            told = f"detecting on {len(dataset)} images of {data}, {split}"
            with console.status(told) if main else nullcontext() as status:
                result = run(
                    model,
                    dataset,
                    batch_size=batch_size,
                    score_threshold=score_threshold,
                    on_batch=lambda done: status and status.update(f"{done} of {len(dataset)} images"),
                )
        if main:
            result.save(out / "evaluation.json")
            console.print(as_table(result))
            plots = plot_precision_recall(result, out)
            console.print(f"{out / 'evaluation.json'}, {len(plots)} precision-recall curves in {out}", soft_wrap=True)


def _open(
    data: str, split: str, length: int | None, seed: int, class_names: tuple[str, ...] | None
) -> DetectionDataset:
    """The data set; one whose classes are some of the detector's, or in another order, numbered like the detector's."""
    from fasterrcnn.data.catalog import is_generated, open_dataset
    from fasterrcnn.distributed import is_main

    dataset = open_dataset(data, split, length, seed=seed)
    same = class_names is None or tuple(class_names) == tuple(dataset.class_names)
    if not is_generated(data) and not same and set(dataset.class_names) <= set(class_names):
        dataset = open_dataset(data, split, length, class_names=class_names)
    if (problems := getattr(dataset, "problems", None)) and is_main():
        told = f"{dataset.name}: {problems.summary()}; `fasterrcnn data check {data}` lists them"
        errors.print(told, markup=False, highlight=False, soft_wrap=True)
    return dataset
