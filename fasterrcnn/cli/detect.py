"""``fasterrcnn detect``: pictures and videos in, annotated ones and JSON out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress

from fasterrcnn.cli.common import console, errors, load_detector, reported
from fasterrcnn.files import beside, put, replacing, write_text

if TYPE_CHECKING:
    from torch import nn

    from fasterrcnn.data.inputs import Failure, Picture
    from fasterrcnn.data.results import CocoResults
    from fasterrcnn.types import Detections


def detect(
    images: Annotated[
        list[str], typer.Argument(help="Pictures, videos, folders of them, or quoted patterns such as 'photos/*.jpg'.")
    ],
    weights: Annotated[
        Path | None, typer.Option(help="Weights of a detector (safetensors); default: the demonstration's.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the annotated pictures and JSON files.", file_okay=False)
    ] = Path("detections"),
    score_threshold: Annotated[float, typer.Option(help="Least score of what is reported.", min=0.0, max=1.0)] = 0.5,
    device: Annotated[str, typer.Option(help='Where to run, such as "cpu" or "cuda".')] = "cpu",
    batch_size: Annotated[int, typer.Option(help="Pictures at a time.", min=1)] = 1,
    recursive: Annotated[bool, typer.Option("--recursive", help="Look into the folders of folders.")] = False,
    pictures: Annotated[bool, typer.Option(help="Write annotated pictures and videos.")] = True,
    single: Annotated[bool, typer.Option("--json/--no-json", help="Write a JSON file for every picture.")] = True,
    coco: Annotated[
        Path | None, typer.Option(help="Also write all detections in COCO's results format.", dir_okay=False)
    ] = None,
    coco_ids: Annotated[
        Path | None,
        typer.Option(help="COCO annotations whose ids of images and categories --coco uses.", dir_okay=False),
    ] = None,
    every: Annotated[int, typer.Option(help="Of a video, the first of every so many frames.", min=1)] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Leave out what an interrupted run with --resume has done.")
    ] = False,
) -> None:
    """Detect objects on pictures: one annotated PNG and one JSON file for each; likewise for each video.

    What cannot be read is reported and skipped, the others are done, and the exit code is 1. Under torchrun several
    processes share the files.
    """
    from fasterrcnn import distributed
    from fasterrcnn.data.inputs import Failure, find_files, read_pictures
    from fasterrcnn.data.outputs import is_done, output_names, prepare_folder
    from fasterrcnn.data.results import CocoResults

    if coco_ids is not None and coco is None:
        raise typer.BadParameter("belongs to --coco FILE", param_hint="--coco-ids")
    if resume and (coco is not None or not single):
        raise typer.BadParameter(
            "needs the JSON files to see what is done, and --coco needs all at once",
            param_hint="--resume",
        )
    if weights is None:
        from fasterrcnn.demo.recipe import WEIGHTS as weights
    with reported(), distributed.joined(device) as device:
        model = load_detector(weights, device)
        options = {"score_threshold": score_threshold, "every": every, "pictures": pictures, "json": single}
        try:
            known = distributed.from_main(lambda: prepare_folder(out, weights, options, resume=resume))
        except OSError as error:
            raise typer.BadParameter(str(error), param_hint="--out") from error
        results = CocoResults(tuple(model.class_names or ()), coco_ids) if coco is not None else None
        # One listing for all: others may be writing when a second process looks.
        every_path = distributed.from_main(lambda: find_files(images, recursive=recursive))
        todo = list(zip(every_path, output_names(every_path), range(len(every_path)), strict=True))
        if known:
            todo = distributed.from_main(lambda: [entry for entry in todo if not is_done(out, *entry[:2])])
            if distributed.is_main():
                console.print(f"{len(every_path) - len(todo)} of {len(every_path)} were done before.", highlight=False)
        main = distributed.is_main()
        todo = todo[distributed.rank() :: distributed.processes()]
        paths = [path for path, *_ in todo]
        place = {path: number for number, path in enumerate(paths, 1)}
        writer = _Writer(
            out, todo, tuple(model.class_names or ()), results, pictures=pictures, single=single, every=every
        )
        failed: list[Failure] = []
        with Progress(console=console, transient=True, disable=not (main and console.is_terminal)) as bar, writer:
            task = bar.add_task("detecting", total=len(paths))
            for batch in _batches(read_pictures(paths, every=every), batch_size):
                for item, found in _detect(model, batch, score_threshold, device):
                    failure = found if isinstance(found, Failure) else writer(item, found)
                    if failure is not None:
                        failed.append(failure)
                        told = f"Skipped {failure.path}: {failure.reason}"
                        errors.print(told, style="red", markup=False, highlight=False, soft_wrap=True)
                    bar.update(task, completed=place[item.path])
        parts = distributed.gathered((len(writer.done), len(failed + writer.failed), writer.found))
        done, skipped = (sum(part[kind] for part in parts) for kind in (0, 1))
        fine = not skipped and (done or known)

        def finish() -> None:
            if results is not None:
                _write_together(results, parts, coco)
            if not fine:
                errors.print(f"{done} done, {skipped} skipped.", markup=False, highlight=False)

        # All wait for it: torchrun ends every process as soon as one exits with an error.
        distributed.from_main(finish)
    if not fine:
        raise typer.Exit(1)


def _write_together(results: CocoResults, parts: list[tuple[int, int, list[Any]]], path: Path) -> None:
    """Writes what all processes found, in the order of the files."""
    for _, entry in sorted((entry for part in parts for entry in part[2]), key=lambda entry: entry[0]):
        results.add(*entry)
    for file in results.write(path):
        console.print(f"{len(results.images)} images → {file}", markup=False, highlight=False, soft_wrap=True)


def _batches(items: Iterator[Picture | Failure], size: int) -> Iterator[list[Picture | Failure]]:
    """Up to so many at a time, of gigantic ones fewer."""
    from fasterrcnn.data.inputs import MOST_PIXELS, Failure

    batch: list[Picture | Failure] = []
    pixels = 0
    for item in items:
        batch.append(item)
        pixels += 0 if isinstance(item, Failure) else item.image[0].numel()
        if len(batch) == size or pixels >= MOST_PIXELS:
            yield batch
            batch, pixels = [], 0
    if batch:
        yield batch


def _detect(
    model: nn.Module, batch: list[Picture | Failure], threshold: float, device: str
) -> Iterator[tuple[Picture | Failure, Detections | Failure]]:
    """Detections in pixels of the images as read. Where a batch fails, each of it is tried alone."""
    from fasterrcnn.data.inputs import Failure

    good = [item for item in batch if not isinstance(item, Failure)]
    found: dict[int, Detections | Failure] = {id(item): item for item in batch if isinstance(item, Failure)}
    parts = [good] if good else []
    while parts:
        part = parts.pop()
        try:
            detections = model.detect([item.image.to(device) for item in part], score_threshold=threshold)
            found.update((id(item), each.to("cpu")) for item, each in zip(part, detections, strict=True))
        except (RuntimeError, ValueError, MemoryError) as error:  # such as too little memory for a batch
            if len(part) > 1:
                parts += [[item] for item in part]
            else:
                told = str(error).splitlines()[0] if str(error) else type(error).__name__
                found[id(part[0])] = Failure(part[0].path, f"cannot be detected on: {told}")
    return iter([(item, found[id(item)]) for item in batch])


class _Writer:
    """Writes what was found, per picture or per video, and says so. A JSON file comes after its picture or video.

    Args:
        todo: files, the stems of what to write for them, and their numbers among all files.
        results: for the check that an image is known; None without COCO results.

    Attributes:
        done: the files something was written for, videos once.
        failed: videos whose output could not be brought to its end.
        found: number of the file and frame, and arguments of :meth:`CocoResults.add`, of every image.
    """

    def __init__(
        self,
        out: Path,
        todo: list[tuple[Path, str, int]],
        names: tuple[str, ...],
        results: Any,
        *,
        pictures: bool,
        single: bool,
        every: int,
    ) -> None:
        self.out, self.names, self.results = out, names, results
        self.pictures, self.single, self.every = pictures, single, every
        self.done: list[Path] = []
        self.failed: list[Failure] = []
        self.found: list[tuple[tuple[int, int], tuple[Any, ...]]] = []
        self._stems: dict[Path, list[tuple[str, int]]] = {}
        for path, stem, number in todo:
            self._stems.setdefault(path, []).append((stem, number))
        self._video: _Video | None = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._end_video()
        elif self._video is not None:
            self._video.discard()

    def __call__(self, item: Picture, found: Detections) -> Failure | None:
        """Writes one picture or frame; a failure where that is not possible."""
        from fasterrcnn.data.inputs import Failure
        from fasterrcnn.image_batch import scale_boxes
        from fasterrcnn.types import Detections
        from fasterrcnn.visualize import draw

        original = Detections(
            scale_boxes(found.boxes, tuple(item.image.shape[-2:]), item.size), found.labels, found.scores
        )
        record = as_record(item.path, item.size[1], item.size[0], original, self.names)
        try:
            if self.results is not None:
                self.results.image_id(item.path)
            drawn = draw(item.image, found, self.names, enlarge=item.frame is None) if self.pictures else None
            if item.frame is not None:
                return self._add_frame(item, record, drawn, original)
            self._end_video()
            stem, number = self._stems[item.path].pop(0)
            if drawn is not None:
                with replacing(self.out / f"{stem}.png") as file:
                    drawn.save(file, format="PNG")
            if self.single:
                write_text(self.out / f"{stem}.json", json.dumps(record, indent=2) + "\n")
            self._keep(number, item, original)
        except (OSError, ValueError) as error:
            return Failure(item.path, f"cannot write what was found: {error}")
        self.done.append(item.path)
        target = f" → {self.out / stem}.{'png' if drawn is not None else 'json'}" if drawn or self.single else ""
        console.print(f"{item.path}: {_in_words(record)}{target}", markup=False, highlight=False, soft_wrap=True)
        return None

    def _keep(self, number: int, item: Picture, found: Detections) -> None:
        if self.results is not None:
            self.found.append(((number, item.frame or 0), (item.path, item.size, found, item.frame)))

    def _add_frame(self, item: Picture, record: dict[str, Any], drawn: Any, found: Detections) -> Failure | None:
        """Adds a frame. One that cannot be added ends its video, of which nothing is left then."""
        from fasterrcnn.data.inputs import Failure

        if self._video is None or self._video.path != item.path or item.frame == 0:
            self._end_video()
            stem, number = self._stems[item.path].pop(0)
            self._video = _Video(item.path, self.out / stem, self.every, number)
        if self._video.broken:
            return None  # as was said
        try:
            self._video.add({"frame": item.frame, "detections": record["detections"]}, record, drawn)
        except Exception as error:  # any encoder's own kind
            self._video.discard()
            return Failure(item.path, f"cannot write what was found: {error}")
        self._keep(self._video.number, item, found)
        return None

    def _end_video(self) -> None:
        from fasterrcnn.data.inputs import Failure

        video, self._video = self._video, None
        if video is None or video.broken:
            return
        try:
            video.close(self.single)
        except Exception as error:  # any encoder's own kind
            self.failed.append(Failure(video.path, str(error)))
            video.discard()
            errors.print(f"Cannot finish {video.stem}: {error}", style="red", markup=False, highlight=False)
            return
        self.done.append(video.path)
        told = f"{video.path}: {len(video.frames)} frames → {video.stem}.*"
        console.print(told, markup=False, highlight=False, soft_wrap=True)


class _Video:
    """The output for one video: an annotated one as MP4, and one JSON file with all frames."""

    def __init__(self, path: Path, stem: Path, every: int, number: int) -> None:
        self.path, self.stem, self.every, self.number = path, stem, every, number
        self.broken = False
        self._target = stem.with_name(f"{stem.name}.mp4")
        self._partial = beside(self._target)
        self.frames: list[dict[str, Any]] = []
        self._head: dict[str, Any] = {}
        self._file: Any = None

    def add(self, frame: dict[str, Any], record: dict[str, Any], drawn: Any) -> None:
        import imageio.v3 as imageio
        import numpy as np

        from fasterrcnn.data.inputs import frame_rate

        self.frames.append(frame)
        self._head = {key: record[key] for key in ("image", "width", "height")}
        if drawn is None:
            return
        if self._file is None:
            self._file = imageio.imopen(self._partial, "w", plugin="pyav")
            self._file.init_video_stream("libx264", fps=max(1, round(frame_rate(self.path) / self.every)))
        pixels = np.asarray(drawn)
        # The codec halves the colour planes, so sides must be even.
        self._file.write_frame(np.pad(pixels, ((0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)), "edge"))

    def close(self, single: bool) -> None:
        if self._file is not None:
            self._file.close()
            put(self._partial, self._target)
        if single:
            text = json.dumps({**self._head, "frames": self.frames}) + "\n"
            write_text(self.stem.with_name(f"{self.stem.name}.json"), text)

    def discard(self) -> None:
        """Leaves nothing of a video that was not brought to its end."""
        self.broken = True
        if self._file is not None:
            with suppress(Exception):  # any encoder's own kind
                self._file.close()
            with suppress(OSError):
                self._partial.unlink(missing_ok=True)


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


def _in_words(record: dict[str, Any]) -> str:
    names = [item["name"] for item in record["detections"]]
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names)) or "nothing found"
