"""``fasterrcnn config``: every setting of a run, with its default."""

from __future__ import annotations

from typing import Annotated

import typer

from fasterrcnn.cli.common import DATA_HELP, reported


def config(
    system: Annotated[str, typer.Argument(help='A system, such as "classic_vgg16".')],
    backbone: Annotated[str | None, typer.Option(help='Trunk instead of the system\'s own, such as "tiny".')] = None,
    data: Annotated[str, typer.Option(help=DATA_HELP)] = "shapes",
    settings: Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")] = None,
) -> None:
    """Print the configuration of a training as TOML, with a comment on every key.

    Edit it and give it to `fasterrcnn train --config FILE`.
    """
    from fasterrcnn.config import changed, default_config, parse_settings, to_toml

    with reported():
        chosen = default_config(system, backbone, data)
        chosen = changed(chosen, parse_settings(settings or [], chosen))
        typer.echo(to_toml(chosen), nl=False)  # no line breaks but its own
