"""``fasterrcnn data``: looking at data sets, and writing them in other formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress
from rich.table import Table

from fasterrcnn.cli.common import console, errors, reported

if TYPE_CHECKING:
    from fasterrcnn.data.problems import Problem

app = typer.Typer(help="Check data sets, or write them as PASCAL VOC or COCO.", no_args_is_help=True)
_NAME = 'Data set: "voc:FOLDER", "coco:FOLDER" or "coco:JSON:IMAGES".'
_MOST = 100  # problems in the table


@app.command()
def check(
    data: Annotated[str, typer.Argument(help=_NAME)],
    split: Annotated[list[str] | None, typer.Option(help="Split to check; may be repeated. Default: all.")] = None,
    decode: Annotated[bool, typer.Option(help="Decode all images, not only read their heads.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Find everything that is wrong with a data set, all at once.

    Exit code 0 if nothing is, 1 if there are problems, 2 if there is no such data set. Notes, such as images without
    objects, are no problems.
    """
    from fasterrcnn.data.catalog import is_generated, splits_of

    with reported():
        if is_generated(data):
            raise ValueError(f"{data} is generated; only files can have problems")
        splits = split or splits_of(data)
        if not splits:
            raise FileNotFoundError(f"{data}: no splits found")
        reports = [_check_split(data, name, decode) for name in splits]
    problems = sum(report["problems"] for report in reports)
    if as_json:
        typer.echo(json.dumps({"data": data, "splits": [_plain(report) for report in reports]}, indent=2))
    else:
        for report in reports:
            _show(report)
    raise typer.Exit(1 if problems else 0)


@app.command()
def export(
    data: Annotated[str, typer.Argument(help=f'"shapes", "scenes" or a {_NAME[0].lower()}{_NAME[1:]}')],
    out: Annotated[Path, typer.Argument(help="Folder to write to.", file_okay=False)],
    form: Annotated[str, typer.Option("--format", help='"voc" or "coco".')] = "coco",
    split: Annotated[str, typer.Option(help="Split to read, and its name in the new set.")] = "train",
    images: Annotated[int | None, typer.Option(min=1, help="At most so many; 100 of generated sets.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the generated images.")] = 0,
    suffix: Annotated[str, typer.Option(help='".jpg", or ".png" for exactly the same pixels.')] = ".jpg",
) -> None:
    """Write a data set as a PASCAL VOC folder or as COCO JSON with its images."""
    from fasterrcnn.data.catalog import is_generated, open_dataset
    from fasterrcnn.data.export import FORMATS, write_coco, write_voc

    if form not in FORMATS:
        raise typer.BadParameter(f"{form!r}; known: {', '.join(FORMATS)}", param_hint="--format")
    if suffix not in (".jpg", ".png"):
        raise typer.BadParameter(f"{suffix!r}; known: .jpg, .png", param_hint="--suffix")
    with reported(), Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        length = images or (100 if is_generated(data) else None)
        dataset = open_dataset(data, split, length, seed=seed)
        task = bar.add_task("writing", total=len(dataset))
        write = {"voc": write_voc, "coco": write_coco}[form]
        write(dataset, out, split, suffix=suffix, on_image=lambda done: bar.update(task, completed=done))
    name = f"{form}:{out}"
    console.print(f"{len(dataset)} images. Use them as --data {name}", markup=False, highlight=False, soft_wrap=True)


def _check_split(data: str, split: str, decode: bool) -> dict[str, Any]:
    """What is wrong with one split; it may be all of it."""
    from fasterrcnn.data.catalog import open_dataset
    from fasterrcnn.data.problems import DataError

    report: dict[str, Any] = {"split": split, "unusable": None, "images": 0, "objects": {}, "entries": []}
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task(f"checking {split}", total=None)
        try:
            dataset = open_dataset(
                *(data, split, None),
                verify="pixels" if decode else "head",
                on_image=lambda done: bar.update(task, completed=done, description=f"{split}: {done} images"),
            )
        except DataError as error:
            report.update(unusable=str(error), entries=list(error.problems))
            report["problems"] = max(1, len(error.problems.real))
            return report
    counts = dict.fromkeys(dataset.class_names, 0)
    for image in dataset.images:
        for item in image.objects:
            counts[dataset.class_names[item.label - 1]] += 1
    report.update(images=len(dataset), objects=counts, entries=list(dataset.problems))
    report["problems"] = len(dataset.problems.real)
    return report


def _plain(report: dict[str, Any]) -> dict[str, Any]:
    entries: list[Problem] = report["entries"]
    return {**report, "entries": [problem.as_record() for problem in entries]}


def _show(report: dict[str, Any]) -> None:
    from fasterrcnn.data.problems import ProblemLog

    entries: list[Problem] = report["entries"]
    notes = len(entries) - report["problems"]
    title = f"{report['split']}: {report['images']} usable images, {sum(report['objects'].values())} objects"
    console.print(title, style="bold", highlight=False)
    if report["unusable"] and not entries:
        errors.print(report["unusable"], style="red", markup=False, highlight=False, soft_wrap=True)
        return
    listed = ", ".join(f"{count} {name}" for name, count in report["objects"].items())
    console.print(listed, markup=False, highlight=False)
    if not entries:
        console.print("No problems.", style="green")
        return
    table = Table()
    for heading in ("kind", "file", "what", "done when opened"):
        table.add_column(heading, overflow="fold")
    for problem in sorted(entries, key=lambda entry: entry.is_note)[:_MOST]:
        style = "dim" if problem.is_note else None
        table.add_row(problem.kind, _escaped(problem.file), _escaped(problem.text), problem.done, style=style)
    console.print(table)
    more = f" The table has the first {_MOST}; --json has all." if len(entries) > _MOST else ""
    console.print(
        f"Problems: {report['problems']}, notes: {notes} ({ProblemLog(entries).summary()}).{more}", highlight=False
    )


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
