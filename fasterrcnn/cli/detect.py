"""``fasterrcnn detect``: pictures in, annotated pictures and JSON out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fasterrcnn.cli.common import console, errors, load_detector

if TYPE_CHECKING:
    from fasterrcnn.types import Detections

# What is looked for in folders.
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
_MARK = "_detections"  # ends the names of what we write, so that a folder can be run twice


def detect(
    images: Annotated[
        list[str], typer.Argument(help="Pictures, folders of pictures, or quoted patterns such as 'photos/*.jpg'.")
    ],
    weights: Annotated[
        Path | None, typer.Option(help="Weights of a detector (safetensors); default: the demonstration's.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the annotated pictures and JSON files.", file_okay=False)
    ] = Path("detections"),
    score_threshold: Annotated[float, typer.Option(help="Least score of what is reported.", min=0.0, max=1.0)] = 0.5,
    device: Annotated[str, typer.Option(help='Where to run, such as "cpu" or "cuda".')] = "cpu",
) -> None:
    """Detect objects on pictures: one annotated PNG and one JSON file for each.

    A picture that cannot be read is reported and skipped, the others are done, and the exit code is 1.
    """
    from fasterrcnn.data.transforms import read_image
    from fasterrcnn.visualize import draw

    if weights is None:
        from fasterrcnn.demo.recipe import WEIGHTS as weights
    model = load_detector(weights, device)
    names = model.class_names or ()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(str(error), param_hint="--out") from error
    done, failed, taken = 0, 0, set()
    for path in _expand(images):
        try:
            image = read_image(path)
        except OSError as error:
            failed += 1
            errors.print(
                f"Skipped {path}: {_reason(error)}", style="red", markup=False, highlight=False, soft_wrap=True
            )
            continue
        detections = model.detect([image.to(device)], score_threshold=score_threshold)[0].to("cpu")
        stem = _free_name(path.stem + _MARK, taken)
        draw(image, detections, names).save(out / f"{stem}.png")
        record = as_record(path, image.shape[-1], image.shape[-2], detections, names)
        (out / f"{stem}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        done += 1
        console.print(f"{path}: {_in_words(record)} → {out / stem}.png", markup=False, highlight=False, soft_wrap=True)
    if failed or not done:
        errors.print(f"{done} done, {failed} skipped.", markup=False, highlight=False)
        raise typer.Exit(1)


def as_record(
    path: Path, width: int, height: int, detections: Detections, class_names: tuple[str, ...]
) -> dict[str, Any]:
    """What the JSON file of a picture says.

    Returns:
        ``image`` (path as given), ``width`` and ``height`` in pixels, and ``detections``, best first, each with
        ``box`` (x1, y1, x2, y2 in pixels of the picture), ``label`` (1…C), ``name`` and ``score`` (0…1).
    """
    found = zip(detections.boxes.tolist(), detections.labels.tolist(), detections.scores.tolist(), strict=True)
    return {
        "image": str(path),
        "width": width,
        "height": height,
        "detections": [
            {
                "box": [round(value, 2) for value in box],
                "label": label,
                "name": class_names[label - 1] if label <= len(class_names) else str(label),
                "score": round(score, 4),
            }
            for box, label, score in found
        ],
    }


def _expand(arguments: list[str]) -> Iterator[Path]:
    """Files named by the arguments, in their order: folders give the pictures directly in them, patterns what they
    match.

    A pattern or folder without any picture is yielded as it is, so that it is reported like a missing file.
    """
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found = sorted(
                file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and not file.stem.endswith(_MARK)
            )
        elif not path.exists() and any(mark in argument for mark in "*?["):
            found = sorted(file for file in _glob(argument) if not file.stem.endswith(_MARK))
        else:
            found = [path]
        yield from found or [path]


def _glob(pattern: str) -> Iterator[Path]:
    import glob

    return (Path(match) for match in glob.glob(pattern, recursive=True) if Path(match).is_file())


def _free_name(stem: str, taken: set[str]) -> str:
    """The stem, or stem-2, stem-3 … when an earlier picture of this run has it, in whatever case."""
    name, number = stem, 1
    while name.lower() in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name.lower())
    return name


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder without pictures"
    if type(error).__name__ == "UnidentifiedImageError":
        return "not a picture"
    return str(error)


def _in_words(record: dict[str, Any]) -> str:
    names = [item["name"] for item in record["detections"]]
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names)) or "nothing found"
