"""Mutated files: whatever is in them, the readers end soon, with a result that holds or an error that names the file.

Ten thousand inputs in the slow test, one thousand of them otherwise. Input k of a reader is a function of k, so that a
failure repeats; the message says which k it was.
"""

from __future__ import annotations

import io
import json
import random
import signal
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import coco_content, picture, voc_folder, voc_object, voc_xml
from PIL import Image

from fasterrcnn.config import default_config, read_config, to_toml
from fasterrcnn.data import CocoDataset, VocDataset
from fasterrcnn.data.images import image_size, read_image, read_reduced

SECONDS = 5.0  # of one input; the slowest takes a hundredth
MAX_PIXELS = 2_000_000  # a mutated head claims sizes that would be decoded for seconds

# What parsers stumble over, besides random bytes.
WORDS = (
    *(b"0", b"-1", b"1e999", b"nan", b"99999999999999999999", b"2147483648", b"NaN", b"null", b"true", b'""', b"''"),
    *(
        b"<",
        b">",
        b"&amp;",
        b"&x;",
        b"<!DOCTYPE a [<!ENTITY x 'y'>]>",
        b"<object>",
        b"</annotation>",
        b"]]>",
        b"<![CDATA[",
    ),
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b"[[",
        b"]]",
        b",",
        b":",
        b"=",
        b'"',
        b"\\u0000",
        b"\\ud800",
        b"#",
        b"\n",
        b'"""',
        b"inf",
    ),
    *(b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xff" * 4, b"\x00" * 8, b"[" * 3000, b"<a>" * 3000, b"9" * 5000),
)


def mutated(seed: bytes, rng: random.Random) -> bytes:
    """One to eight changes: bits, bytes, words, pieces removed, doubled or moved, the end cut off."""
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        place = rng.randrange(len(data) + 1)
        span = slice(place, place + rng.choice((1, 2, 4, 16, 64)))
        match rng.randrange(8):
            case 0 if place < len(data):
                data[place] ^= 1 << rng.randrange(8)
            case 1 if place < len(data):
                data[place] = rng.randrange(256)
            case 2:
                data[place:place] = rng.choice(WORDS)
            case 3:
                data[span] = rng.choice(WORDS)
            case 4:
                del data[span]
            case 5:
                data[place:place] = data[span] * rng.choice((1, 2, 50))
            case 6:
                other = rng.randrange(len(data) + 1)
                data[other:other] = data[span]
            case 7 if rng.random() < 0.3:
                del data[place:]
    return bytes(data)


@contextmanager
def bounded():
    """Raises after SECONDS."""

    def stop(*_):
        raise TimeoutError(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def assert_holds(dataset) -> None:
    """What a data set promises, whatever it was made of."""
    for index, (height, width) in enumerate(dataset.sizes):
        target = dataset.target(index)
        boxes, labels = target["boxes"], target["labels"]
        assert boxes.isfinite().all()
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert ((labels >= 1) & (labels <= len(dataset.class_names))).all()
        assert target["area"].isfinite().all()


def read_voc(path: Path) -> bool:
    root = path.parent.parent
    dataset = VocDataset(root, "all", class_names=("cat", "dog"))
    assert all(problem.file.startswith(str(root)) for problem in dataset.problems)
    assert_holds(dataset)
    return not dataset.problems


def read_voc_list(path: Path) -> bool:
    root = path.parent.parent.parent
    dataset = VocDataset(root, "input", class_names=("cat", "dog"))
    assert all(problem.file.startswith(str(root)) for problem in dataset.problems)
    assert_holds(dataset)
    return not dataset.problems


def read_coco(path: Path) -> bool:
    dataset = CocoDataset(path, path.parent)
    assert all(problem.file.startswith(str(path.parent)) for problem in dataset.problems)
    assert_holds(dataset)
    return not dataset.problems


def read_picture(path: Path) -> bool:
    height, width = image_size(path)
    if height * width > MAX_PIXELS:
        return False
    image = read_image(path, max_pixels=MAX_PIXELS)
    assert image.isfinite().all()
    assert image.min() >= 0
    assert image.max() <= 1
    reduced, size = read_reduced(path, 400, max_pixels=MAX_PIXELS)
    assert size == tuple(image.shape[1:])
    assert reduced.shape[1] <= size[0]
    return True


def read_configuration(path: Path) -> bool:
    assert to_toml(read_config(path)).startswith("#")
    return True


def pictures() -> list[bytes]:
    """Files of every format and depth."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)
    colour, files = Image.fromarray(pixels), []
    Image.init()
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = [Image.fromarray(pixels[..., 0].astype(kind)) for kind in (np.uint16, np.int32, np.float32)]
    for image, form, options in (
        *((colour, form, {}) for form in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "TGA", "ICO")),
        (colour, "JPEG", {"exif": exif, "progressive": True}),
        (colour.convert("CMYK"), "JPEG", {}),
        (colour.convert("RGBA"), "PNG", {"exif": exif}),
        (colour.convert("P"), "PNG", {"transparency": 3}),
        (colour.convert("1"), "TIFF", {"compression": "group4"}),
        (colour, "TIFF", {"compression": "tiff_lzw", "exif": exif}),
        *((image, "TIFF", {}) for image in deep),
        (deep[0], "PNG", {}),
        *((colour, form, {}) for form in ("JPEG2000", "AVIF", "QOI") if form in Image.SAVE),  # not in every Pillow
    ):
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        files.append(buffer.getvalue())
    return files


def configurations() -> list[bytes]:
    short = b'system = "resnet50_c4"\nbackbone = "tiny"\n[train]\nschedule = "multistep"\nmilestones = [1, 2]\n'
    short += b"lr = 0.1\n[data]\nsize = [64, 64]\n"
    values = b'system = "classic_vgg16"\n[data]\nname = "coco:a.json:b"\nscale_jitter = [0.5, 2]\nflip = 0.5\n[eval]\n'
    printed = to_toml(default_config("stepwise_vgg16")).splitlines(keepends=True)
    return [short, values + b'score_threshold = "none"\n', "".join(printed[:20]).encode()]


def prepare(kind: str, folder: Path) -> tuple[Path, list[bytes], Callable[[Path], bool]]:
    """Where the file is written, what is mutated, and the reader."""
    if kind == "xml":
        flags = {"difficult": 0, "truncated": 1}
        text = voc_xml(voc_object("cat", **flags), voc_object("dog", (3, 4, 60, 40)))
        root = voc_folder(folder, {"good": text, "input": text})
        return root / "Annotations" / "input.xml", [text.encode(), f'<?xml version="1.0"?>\n{text}'.encode()], read_voc
    if kind == "json":
        content = coco_content()
        for entry in content["images"]:
            picture(folder / entry["file_name"])
        seeds = [json.dumps(content).encode(), json.dumps(content, indent=1).encode("utf-16")]
        return folder / "input.json", seeds, read_coco
    if kind == "image":
        return folder / "input.bin", pictures(), read_picture
    if kind == "list":
        names = [f"{number:06d}" for number in range(6)]
        root = voc_folder(folder, {name: voc_xml(voc_object()) for name in names}, "input")
        return root / "ImageSets/Main/input.txt", ["\n".join(names).encode()], read_voc_list
    return folder / "input.toml", configurations(), read_configuration


def fuzz(kind: str, folder: Path, inputs: range) -> None:
    path, seeds, read = prepare(kind, folder)
    for seed in seeds:  # as it is, each is right
        path.write_bytes(seed)
        assert read(path)
    outcomes = {True: 0, False: 0}  # read without a complaint, or not
    for number in inputs:
        rng = random.Random(f"{kind} {number}")
        path.write_bytes(mutated(rng.choice(seeds), rng))
        start = time.perf_counter()
        try:
            with bounded(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Pillow, about damaged metadata
                outcomes[read(path)] += 1
        except TimeoutError as error:
            raise AssertionError(f"{kind} input {number}: {error}") from error
        except (OSError, ValueError) as error:
            if path.name not in str(error):
                raise AssertionError(f"{kind} input {number}: {error!r} does not name the file") from error
            outcomes[False] += 1
        except Exception as error:
            raise AssertionError(f"{kind} input {number}: {error!r}") from error
        assert time.perf_counter() - start < SECONDS, f"{kind} input {number} took too long"
    assert min(outcomes.values()) > len(inputs) / 50, outcomes


KINDS = {"xml": 2300, "json": 2400, "image": 3300, "toml": 1400, "list": 600}


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files(kind, tmp_path):
    fuzz(kind, tmp_path, range(KINDS[kind] // 10))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_mutated_files(kind, tmp_path):
    fuzz(kind, tmp_path, range(KINDS[kind]))
