"""The command ``fasterrcnn``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from fasterrcnn.types import Detections

# What is looked for in folders.
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
_MARK = "_detections"  # ends the names of what we write, so that a folder can be run twice

app = typer.Typer(
    help="Faster R-CNN detectors.", no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False
)
console = Console()
errors = Console(stderr=True)


def main() -> None:
    """Entry point of the console script."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        from fasterrcnn import __version__

        console.print(f"fasterrcnn {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Faster R-CNN detectors."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the annotated pictures.", file_okay=False)] = Path(
        "demo_output"
    ),
    train: Annotated[bool, typer.Option("--train", help="Retrain from scratch first; takes minutes.")] = False,
    weights: Annotated[
        Path | None, typer.Option(help="Weights to use instead of the shipped ones.", exists=True, dir_okay=False)
    ] = None,
) -> None:
    """Detect objects on the shipped photographs, measure the detector, time the operators.

    Downloads nothing. Exit code 1 when the numbers fall short of what the project promises.
    """
    if train and weights is not None:
        raise typer.BadParameter("--train makes weights of its own: leave one of the two out", param_hint="--weights")
    from fasterrcnn.demo import run_demo

    try:
        report = run_demo(out, weights=weights, train=train, console=console)
    except (OSError, ValueError) as error:
        errors.print(f"Error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as interruption:
        errors.print(str(interruption) or "Stopped.", markup=False, highlight=False)
        raise typer.Exit(130) from interruption
    for problem in report.shortfalls():
        errors.print(f"Fell short: {problem}.", style="red", markup=False, highlight=False)
    if report.shortfalls():
        raise typer.Exit(1)


@app.command()
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
    from fasterrcnn import checkpoints
    from fasterrcnn.data.transforms import read_image
    from fasterrcnn.visualize import draw

    if weights is None:
        from fasterrcnn.demo.recipe import WEIGHTS as weights
    _check_device(device)
    try:
        model = checkpoints.load_model(weights, device=device)
    except (OSError, ValueError, RuntimeError) as error:
        missing = not Path(weights).is_file()
        reason = f"no such file: {weights}" if missing else f"cannot load {weights}: {error}"
        raise typer.BadParameter(reason, param_hint="--weights") from error
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
            errors.print(f"Skipped {path}: {_reason(error)}", style="red", markup=False, highlight=False)
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


def _check_device(name: str) -> None:
    import torch

    try:
        torch.zeros(1, device=name).tolist()  # "meta" makes tensors, but none with values
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch without CUDA raises an AssertionError
        raise typer.BadParameter(f"{name}: {str(error).splitlines()[0]}", param_hint="--device") from error


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
