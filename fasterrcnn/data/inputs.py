"""What a detector is run on: picture files, folders, patterns and videos, as a stream no bad file ends."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fasterrcnn.data.images import ImageError, read_reduced
from fasterrcnn.types import Size

PICTURES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2", ".avif", ".tga", ".qoi"}
)
VIDEOS = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})
"""What is looked for in folders; a file that is named is tried whatever its suffix."""

MARK = "_detections"
"""Ends the names of what we write, but for a number where several would have one, so that a folder can be run twice."""
_OURS = re.compile(rf".*{MARK}(-\d+)?(\.mp4\.\d+\.partial)?")

MOST_PIXELS = 50_000_000
"""Larger pictures are reduced by a whole factor when they are read; detectors shrink them far more anyway."""


@dataclass
class Picture:
    """One picture, or one frame of a video.

    Attributes:
        path: the file.
        image: float32 [3, h, w], RGB in 0…1.
        size: (height, width) in the file, which is larger than that of ``image`` for gigantic pictures.
        frame: its number in a video, from 0; None for a picture.
    """

    path: Path
    image: torch.Tensor
    size: Size
    frame: int | None = None


@dataclass
class Failure:
    """A file that could not be read, or not to its end.

    Attributes:
        path: the file.
        reason: in words.
    """

    path: Path
    reason: str


def find_files(arguments: Iterable[str], *, recursive: bool = False) -> list[Path]:
    """Files named by the arguments, in their order: folders give the pictures and videos in them, patterns what they
    match.

    A pattern or folder without any is given as it is, so that it is reported like a missing file.

    Args:
        arguments: paths, or patterns with ``*``, ``?``, ``[…]`` and ``**``.
        recursive: look into the folders of folders.
    """
    files: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found = (
                file for file in path.glob("**/*" if recursive else "*") if file.suffix.lower() in PICTURES | VIDEOS
            )
        elif not path.exists() and any(mark in argument for mark in "*?["):
            found = (Path(match) for match in glob.glob(argument, recursive=True))
        else:
            files.append(path)
            continue
        files += sorted(file for file in found if file.is_file() and not _OURS.fullmatch(file.stem)) or [path]
    return files


def is_video(path: Path) -> bool:
    """By its suffix."""
    return path.suffix.lower() in VIDEOS


def read_pictures(
    paths: Sequence[Path], *, every: int = 1, most_pixels: int | None = None
) -> Iterator[Picture | Failure]:
    """All pictures and frames in order; a failure in place of what cannot be read.

    Args:
        paths: pictures and videos.
        every: of videos the first of every so many frames.
        most_pixels: of a picture as read; default ``MOST_PIXELS``.
    """
    for path in paths:
        if is_video(path):
            yield from _frames(path, every)
            continue
        try:
            yield Picture(path, *read_reduced(path, most_pixels or MOST_PIXELS))
        except OSError as error:
            yield Failure(path, reason(error, path))


def frame_rate(path: Path) -> float:
    """Frames per second of a video; 25 where it does not say."""
    import imageio.v3 as imageio

    try:
        return float(imageio.immeta(path, plugin="pyav").get("fps") or 25)
    except Exception:  # any decoder's own kind
        return 25.0


def _frames(path: Path, every: int) -> Iterator[Picture | Failure]:
    try:
        import av  # noqa: F401 - what imageio decodes with
        import imageio.v3 as imageio
    except ImportError:
        yield Failure(path, 'a video needs imageio and av: pip install "fasterrcnn-ops[video]"')
        return
    if not path.is_file():
        yield Failure(path, "no such file")
        return
    number = -1
    try:
        for number, pixels in enumerate(imageio.imiter(path, plugin="pyav")):
            if number % every == 0:
                yield Picture(path, _as_tensor(pixels), pixels.shape[:2], number)
    except Exception as error:  # any decoder's own kind
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        yield Failure(path, f"damaged video after {number + 1} frames ({told})")
        return
    if number < 0:
        yield Failure(path, "a video without frames")


def _as_tensor(pixels: Any) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous().float().div_(255)


def reason(error: OSError, path: Path) -> str:
    """In words, without the name of the file."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder without pictures"
    if isinstance(error, ImageError):
        return str(error).removeprefix(f"{path}: ")
    return error.strerror or str(error)
