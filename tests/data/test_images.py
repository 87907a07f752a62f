"""Picture files of every kind: values, orientation, sizes, and errors that name the file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data_files import png_head
from PIL import Image, PngImagePlugin

from fasterrcnn.data.images import image_size, read_image, read_reduced, to_tensor


def save(folder, name, image, **more):
    path = folder / name
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **more)
    return path


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(tmp_path, mode):
    image = Image.new("RGBA", (4, 3), (200, 0, 0, 255))
    image.putpixel((1, 2), (0, 0, 0, 0))
    image.putpixel((2, 2), (0, 0, 0, 51))  # a fifth of black on white
    tensor = read_image(save(tmp_path, "a.png", image.convert(mode)))
    assert tensor[:, 2, 1].tolist() == [1, 1, 1]
    if mode != "P":  # whose colours have one transparency each
        assert tensor[:, 2, 2].tolist() == pytest.approx([0.8] * 3, abs=0.01)
    assert float(tensor[0, 0, 0]) == pytest.approx((60 if mode == "LA" else 200) / 255, abs=0.01)


def test_a_colour_declared_transparent_is_white(tmp_path):
    path = save(tmp_path, "a.png", np.zeros((2, 2, 3), np.uint8), transparency=(0, 0, 0))
    assert read_image(path).min() == 1


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_gray_keeps_its_precision(tmp_path, suffix):
    values = np.array([[0, 1, 300], [32768, 65534, 65535]], np.uint16)
    tensor = read_image(save(tmp_path, f"a.{suffix}", values))
    assert torch.equal(tensor[0], tensor[2])
    np.testing.assert_allclose(tensor[1].numpy(), values / 65535, atol=1e-7)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.25, 1.0], [0, 0.25, 1]),
        ([0.0, 51.0, 255.0], [0, 0.2, 1]),
        ([-5.0, 0.0, 5.0], [0, 0.5, 1]),
        ([0.0, 500.0, 1000.0], [0, 0.5, 1]),
        ([float("nan"), 0.5, float("inf")], [0, 0.5, 1]),
        ([7.0, 7.0, 7.0], [7 / 255] * 3),
        ([-7.0, -7.0, -7.0], [0, 0, 0]),
        ([float("nan")] * 3, [0, 0, 0]),
    ],
)
def test_float_tiffs_are_scaled_sensibly(tmp_path, values, expected):
    tensor = read_image(save(tmp_path, "a.tif", np.array([values], np.float32)))
    assert tensor[1, 0].tolist() == pytest.approx(expected, abs=1e-6)


def test_whole_numbers_of_32_bits(tmp_path):
    assert read_image(save(tmp_path, "a.tif", np.array([[0, 65535]], np.int32)))[0, 0].tolist() == [0, 1]
    assert read_image(save(tmp_path, "b.tif", np.array([[-100, 0, 100]], np.int32)))[0, 0].tolist() == [0, 0.5, 1]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_every_orientation(tmp_path, orientation, suffix):
    """Stored so that a viewer, and Pillow's own routine, shows the same picture again."""
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that stores it
    picture = Image.fromarray(np.arange(0, 240, 10, np.uint8).reshape(4, 6).repeat(16, 0).repeat(16, 1))
    stored = picture.transpose(back[orientation]) if orientation > 1 else picture
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, f"a.{suffix}", stored, exif=exif)
    tensor = read_image(path)
    assert tuple(tensor.shape) == (3, 64, 96)
    torch.testing.assert_close(tensor, to_tensor(picture), atol=0.03, rtol=0)
    assert image_size(path) == (64, 96)
    reduced, size = read_reduced(path, 64 * 96 // 4)
    assert (tuple(reduced.shape), size) == ((3, 32, 48), (64, 96))
    torch.testing.assert_close(reduced, to_tensor(picture.reduce(2)), atol=0.03, rtol=0)


def test_heads_of_png_files_suffice(tmp_path, monkeypatch):
    """But for those with EXIF data, which may lie behind the pixels."""
    plain, turned, behind = (save(tmp_path, f"{name}.png", np.zeros((40, 60, 3), np.uint8)) for name in "abc")
    exif = Image.Exif()
    exif[0x0112] = 6
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", "a program")
    Image.open(plain).save(plain, pnginfo=text)
    Image.open(turned).save(turned, exif=exif)
    data, chunk = turned.read_bytes(), turned.read_bytes().index(b"eXIf") - 4
    end = chunk + 12 + int.from_bytes(data[chunk : chunk + 4], "big")
    behind.write_bytes(data[:chunk] + data[end:-12] + data[chunk:end] + data[-12:])
    decoded = []
    load = PngImagePlugin.PngImageFile.load
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: decoded.append(self) or load(self))
    assert image_size(plain) == (40, 60)
    assert not decoded
    assert image_size(turned) == image_size(behind) == (60, 40)
    assert read_image(behind).shape == (3, 60, 40)


def test_boxes_decide_about_an_orientation(tmp_path):
    """Annotated on the stored pixels, a picture is not turned; annotated as shown, it is; otherwise it is refused."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path, "a.png", Image.new("L", (6, 4)), exif=exif)
    assert read_image(path, annotated_size=(4, 6)).shape == (3, 4, 6)
    assert read_image(path, annotated_size=(6, 4)).shape == (3, 6, 4)
    assert (image_size(path, (4, 6)), image_size(path, (6, 4)), image_size(path, (9, 9))) == ((4, 6), (6, 4), (6, 4))
    with pytest.raises(OSError, match=r"a\.png: 4 × 6 pixels, its boxes are for 9 × 9"):
        read_image(path, annotated_size=(9, 9))


def test_gigantic_pictures_are_reduced_when_read(tmp_path):
    pixels = np.zeros((400, 601), np.uint8)
    pixels[:200] = 200
    for name, values in {"a.png": pixels, "b.jpg": pixels, "c.tif": pixels.astype(np.float32) / 255}.items():
        tensor, size = read_reduced(save(tmp_path, name, values), 30_000)
        assert size == (400, 601)
        assert tensor[0].numel() <= 30_000
        assert tensor.shape[1:] in ((134, 201), (133, 200), (134, 200), (100, 151), (100, 150), (67, 101), (134, 202))
        assert tensor[:, 2, 2].tolist() == pytest.approx([200 / 255] * 3, abs=0.02)
        assert tensor[:, -2, -2].tolist() == pytest.approx([0] * 3, abs=0.02)
    palette = save(tmp_path, "d.png", Image.fromarray(pixels).convert("P"))
    assert read_reduced(palette, 30_000)[0][0, 2, 2] == pytest.approx(200 / 255, abs=0.02)


def test_what_claims_to_be_too_large_is_refused_before_it_is_decoded(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png_head(100_000, 100_000))
    with pytest.raises(OSError, match=r"bomb\.png: 100000 × 100000 pixels; more than 500,000,000 are refused"):
        read_image(tmp_path / "bomb.png")
    with pytest.raises(OSError, match="more than 100 are refused"):
        read_image(save(tmp_path, "a.png", np.zeros((11, 10), np.uint8)), max_pixels=100)


def test_the_smallest_picture(tmp_path):
    assert read_image(save(tmp_path, "a.png", np.full((1, 1), 255, np.uint8))).tolist() == [[[1]], [[1]], [[1]]]


@pytest.mark.parametrize("kind", ["cut.jpg", "cut.tif", "text.png", "empty.webp", "script.eps"])
def test_errors_name_the_file(tmp_path, kind):
    path = tmp_path / kind
    if kind.startswith("cut"):
        save(tmp_path, kind, np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))
        path.write_bytes(path.read_bytes()[:900])
    else:
        path.write_bytes({"text.png": b"no picture", "empty.webp": b"", "script.eps": b"%!PS-Adobe-3.0 EPSF"}[kind])
    with pytest.raises(OSError, match=kind):
        read_image(path)
    with pytest.raises(OSError, match=kind):
        image_size(path, decode=True)
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        read_image(tmp_path / "gone.png")
