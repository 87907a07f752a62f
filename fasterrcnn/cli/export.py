"""``fasterrcnn export``: a detector as a file for ONNX Runtime or for ``torch.export.load``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from fasterrcnn.cli.common import console, load_detector, reported


class Format(str, Enum):
    """The formats there are; the name is the suffix of the file."""

    onnx = "onnx"
    pt2 = "pt2"


def export(
    weights: Annotated[Path, typer.Option(help="Weights of a detector (safetensors), as training writes them.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write; default: beside the weights, under their name.", dir_okay=False)
    ] = None,
    form: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="onnx: for ONNX Runtime; pt2: for torch.export.load. Default: by the suffix of --out, else onnx.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help='Where a pt2 program will run, such as "cpu" or "cuda"; ONNX runs anywhere.')
    ] = "cpu",
) -> None:
    """Export the whole detector, NMS included, for any number of images of any size."""
    from fasterrcnn import export as exports

    model = load_detector(weights, device)
    if form is None:
        form = Format.pt2 if out is not None and out.suffix == ".pt2" else Format.onnx
    path = weights.with_suffix(f".{form.value}") if out is None else out
    with reported():
        path.parent.mkdir(parents=True, exist_ok=True)
        with console.status(f"exporting {model.system}"):
            (exports.to_onnx if form is Format.onnx else exports.to_pt2)(model, path)
    inputs = ", ".join(exports.INPUTS[: 2 + exports.takes_scales(model)])
    console.print(f"{path}: {model.system}, {inputs} → {', '.join(exports.OUTPUTS)}", soft_wrap=True, highlight=False)
