"""``fasterrcnn eval``: how good the weights of a file are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fasterrcnn.cli.common import console, load_detector, reported, threads


def evaluate(
    weights: Annotated[Path, typer.Option(help="Weights of a detector (safetensors), as training writes them.")],
    data: Annotated[str, typer.Option(help='Data set: "shapes" or "scenes".')] = "shapes",
    split: Annotated[str, typer.Option(help='"train", "val" or "test".')] = "val",
    images: Annotated[int, typer.Option(min=1, help="How many images.")] = 200,
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
    """Measure a detector: average precision of VOC and COCO per class, as table, JSON and precision-recall curves."""
    from fasterrcnn.data.catalog import open_dataset
    from fasterrcnn.evaluation import evaluate as run
    from fasterrcnn.evaluation.report import as_table, plot_precision_recall

    model = load_detector(weights, device)
    with reported(), threads(thread_count, sum(p.numel() for p in model.parameters())):
        dataset = open_dataset(data, split, images, seed=seed)
        out.mkdir(parents=True, exist_ok=True)
        with console.status(f"detecting on {images} images of {data}, {split}") as status:
            result = run(
                model,
                dataset,
                batch_size=batch_size,
                score_threshold=score_threshold,
                on_batch=lambda done: status.update(f"{done} of {images} images"),
            )
        result.save(out / "evaluation.json")
        console.print(as_table(result))
        plots = plot_precision_recall(result, out)
    console.print(f"{out / 'evaluation.json'}, {len(plots)} precision-recall curves in {out}", soft_wrap=True)
