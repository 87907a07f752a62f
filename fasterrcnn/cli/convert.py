"""``fasterrcnn convert``: another project's weights to a file that every command takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fasterrcnn.cli.common import console, reported


def convert(
    weights: Annotated[Path, typer.Argument(help="A file of weights: .pth, .pkl or .safetensors.", dir_okay=False)],
    system: Annotated[str, typer.Option(help='The system they are of, such as "resnet50_c4".')],
    out: Annotated[Path, typer.Option(help="File to write (safetensors).", dir_okay=False)],
    num_classes: Annotated[int | None, typer.Option(min=1, help="Classes, background not counted.")] = None,
    class_names: Annotated[
        Path | None, typer.Option(help="Text file with the name of a class on each line.", dir_okay=False)
    ] = None,
    backbone: Annotated[str | None, typer.Option(help='Trunk instead of the system\'s own, such as "vgg".')] = None,
    detectron2: Annotated[
        bool, typer.Option("--detectron2", help="Compute as detectron2's R50-C4 does: anchors, boxes, RoIAlign.")
    ] = False,
    settings: Annotated[list[str] | None, typer.Option("--set", help="model.key=value; may be repeated.")] = None,
) -> None:
    """Convert weights of another project, for `fasterrcnn detect --weights` and `fasterrcnn eval --weights`.

    Nothing in the file is run. What was recognised, converted and left is printed; docs/weights.md explains it.
    """
    with reported():
        if class_names is not None:
            names = tuple(line.strip() for line in class_names.read_text(encoding="utf-8").splitlines() if line.strip())
            if num_classes not in (None, len(names)):
                raise ValueError(f"{class_names} has {len(names)} names for {num_classes} classes")
            num_classes = len(names)
        if num_classes is None:
            raise typer.BadParameter("say how many classes, or give --class-names", param_hint="--num-classes")

        from fasterrcnn import build, checkpoints
        from fasterrcnn.config import changed, default_config, parse_settings
        from fasterrcnn.weights import DETECTRON2

        chosen = default_config(system, backbone)
        if detectron2:
            chosen = changed(chosen, {"model": DETECTRON2})
        chosen = changed(chosen, parse_settings(settings or [], chosen))
        model = build(system, num_classes=num_classes, backbone=backbone, **chosen.model)
        report = checkpoints.load(model, weights)
        if class_names is not None:
            model.class_names = names
        checkpoints.save(model, out)
    console.print(f"{report}\n→ {out}", markup=False, highlight=False, soft_wrap=True)
