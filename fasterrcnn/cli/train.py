"""``fasterrcnn train``: from a configuration to weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fasterrcnn.cli import common
from fasterrcnn.cli.common import DATA_HELP, check_device, reported, threads


def train(
    out: Annotated[Path, typer.Option(help="Folder for weights, checkpoint, curves, configuration.", file_okay=False)],
    system: Annotated[str | None, typer.Option(help='A system, such as "classic_vgg16".')] = None,
    backbone: Annotated[str | None, typer.Option(help='Trunk instead of the system\'s own, such as "tiny".')] = None,
    data: Annotated[str | None, typer.Option(help=DATA_HELP)] = None,
    config: Annotated[
        Path | None, typer.Option(help="Configuration (TOML); `fasterrcnn config` prints one.", dir_okay=False)
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, such as train.lr=0.01; may be repeated.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Initial weights: any file docs/weights.md names.", dir_okay=False)
    ] = None,
    new_predictors: Annotated[
        bool, typer.Option("--new-predictors", help="Without those of the last layers: the classes are others.")
    ] = False,
    resume: Annotated[bool, typer.Option(help="Go on from a checkpoint in the folder, if there is one.")] = True,
    device: Annotated[str, typer.Option(help='Where to train, such as "cpu" or "cuda".')] = "cpu",
    thread_count: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads; default: 1 for small detectors.")
    ] = None,
) -> None:
    """Train a detector and evaluate it.

    Without --config everything has the default of the system and the backbone. An interrupted training (Ctrl-C) goes on
    with the same command. Under torchrun several processes train together.
    """
    from fasterrcnn import distributed
    from fasterrcnn.config import changed, default_config, parse_settings, read_config
    from fasterrcnn.training.run import build_detector, open_split, run_training

    if config is None and system is None:
        raise typer.BadParameter("say which system to train, or give a --config", param_hint="--system")
    if config is not None and (system is not None or backbone is not None or data is not None):
        raise typer.BadParameter("the file says system, backbone and data: leave them out", param_hint="--config")
    check_device(device)
    with reported(), distributed.joined(device) as device:
        console = common.console if distributed.is_main() else Console(quiet=True)
        chosen = read_config(config) if config else default_config(system, backbone, data or "shapes")
        chosen = changed(chosen, parse_settings(settings or [], chosen))
        parameters = sum(
            p.numel() for p in build_detector(chosen, len(open_split(chosen, "val").class_names)).parameters()
        )
        with threads(thread_count, parameters):
            console.print(f"{chosen.system}, {parameters / 1e6:.2f} M parameters, on {device} → {out}", highlight=False)
            result = run_training(
                chosen,
                out,
                resume=resume,
                device=device,
                console=console,
                weights=weights,
                new_predictors=new_predictors,
            )
        found = result.evaluation.voc.mean
        console.print(
            f"{result.steps} steps, {result.seconds:.0f} s, mAP@0.5 {found:.3f}. Weights: {result.weights}; best, of "
            f"step {result.best_step}: {result.best}",
            highlight=False,
            soft_wrap=True,
        )
