"""Reading and writing pictures, mirroring with boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fasterrcnn.data import horizontal_flip, read_image, to_pil, to_tensor


def test_pixels_survive_the_round_trip():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = to_tensor(Image.fromarray(pixels))
    assert image.shape == (3, 5, 7)
    assert image[1, 2, 3].item() == pytest.approx(pixels[2, 3, 1] / 255)
    assert np.array_equal(np.asarray(to_pil(image)), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F"])
def test_every_mode_becomes_rgb(mode, tmp_path):
    image = Image.new("RGB", (6, 4), (255, 255, 255)).convert("L" if mode in ("I", "I;16", "F") else mode)
    if mode in ("I", "I;16"):
        image = Image.fromarray(np.full((4, 6), 65535, np.uint16 if mode == "I;16" else np.int32))
    tensor = to_tensor(image)
    assert tensor.shape == (3, 4, 6)
    assert torch.allclose(tensor, torch.ones(3, 4, 6), atol=0.01)


def test_reading_obeys_the_orientation_tag(tmp_path):
    image = Image.new("RGB", (6, 4))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned: show it rotated by 90 degrees clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    tensor = read_image(tmp_path / "turned.png")
    assert tensor.shape == (3, 6, 4)
    assert tensor[0, 0, 3] == 1


def test_unreadable_files_raise_oserror(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (60, 60), (9, 99, 199)).save(tmp_path / "whole.png")
    Image.effect_noise((60, 60), 90).save(tmp_path / "noise.png")
    whole = (tmp_path / "noise.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name in ("text.png", "cut.png", "empty.jpg", "missing.png", "."):
        with pytest.raises(OSError):  # noqa: PT011 - several kinds, all OSErrors
            read_image(tmp_path / name)


def test_flip_mirrors_boxes_with_the_pixels():
    image = torch.zeros(3, 10, 20)
    image[:, 2:5, 3:9] = 1
    target = {"boxes": torch.tensor([[3.0, 2, 9, 5]]), "labels": torch.tensor([2])}
    flipped, mirrored = horizontal_flip(image, target)
    x1, y1, x2, y2 = mirrored["boxes"][0].int().tolist()
    assert flipped[:, y1:y2, x1:x2].min() == 1
    assert flipped.sum() == image.sum()
    assert mirrored["labels"].tolist() == [2]
    back, again = horizontal_flip(flipped, mirrored)
    assert torch.equal(back, image)
    assert torch.equal(again["boxes"], target["boxes"])


def test_to_pil_rejects_other_shapes():
    with pytest.raises(ValueError, match=r"\[3, H, W\]"):
        to_pil(torch.zeros(4, 5))
