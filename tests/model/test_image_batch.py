"""Images into batches, boxes back to the originals."""

from __future__ import annotations

import pytest
import torch

from fasterrcnn.image_batch import ImageBatcher, boxes_to_original, resized_size, scale_boxes


@pytest.mark.parametrize(
    ("size", "min_size", "max_size", "expected"),
    [
        ((300, 400), 600, None, (600, 800)),
        ((1200, 900), 600, None, (800, 600)),
        ((375, 500), 600, 1000, (600, 800)),
        ((100, 400), 600, 1000, (250, 1000)),
        ((300, 400), None, None, (300, 400)),
        ((300, 400), None, 200, (150, 200)),
        ((1, 5000), None, 100, (1, 100)),
    ],
)
def test_sizes(size, min_size, max_size, expected):
    assert resized_size(size, min_size, max_size)[0] == expected


def test_batch_of_two_sizes():
    images = [torch.ones(3, 30, 40), torch.ones(3, 60, 60)]
    batch = ImageBatcher(min_size=60)(images)
    assert batch.sizes == [(60, 80), (60, 60)]
    assert batch.original_sizes == [(30, 40), (60, 60)]
    assert batch.scales == [2.0, 1.0]
    assert batch.images.shape == (2, 3, 60, 80)
    torch.testing.assert_close(batch.images[0], torch.ones(3, 60, 80))
    torch.testing.assert_close(batch.images[1, :, :, :60], torch.ones(3, 60, 60))
    assert not batch.images[1, :, :, 60:].any()


def test_normalisation_before_padding():
    batch = ImageBatcher(min_size=None, mean=(1.0, 0.5, 0.0), std=(1.0, 0.5, 2.0))([torch.ones(3, 40, 20)])
    assert batch.images.shape == (1, 3, 40, 32)  # small images are padded to a side every trunk can take
    assert batch.images[0, :, 0, 0].tolist() == [0, 1, 0.5]
    assert batch.images[0, :, 0, 25].tolist() == [0, 0, 0]


def test_family_has_no_normalisation():
    image = torch.rand(3, 40, 50)
    torch.testing.assert_close(ImageBatcher(min_size=40)([image]).images[0], image)


def test_targets_move_along():
    target = {"boxes": torch.tensor([[10, 20, 30, 40.0]]), "labels": torch.tensor([3])}
    batch = ImageBatcher(min_size=100)([torch.rand(3, 50, 75)], [target])
    assert batch.targets[0]["boxes"].tolist() == [[20, 40, 60, 80]]
    assert batch.targets[0]["labels"].tolist() == [3]
    assert target["boxes"].tolist() == [[10, 20, 30, 40]]


def test_there_and_back():
    """Rounding a size to whole pixels scales height and width by slightly different factors."""
    images = [torch.rand(3, 333, 517), torch.rand(3, 40, 77)]
    batch = ImageBatcher(min_size=100)(images)
    for index, image in enumerate(images):
        height, width = image.shape[1:]
        boxes = torch.tensor([[0.0, 0, width, height], [3, 5, 30, 35]])
        inside = scale_boxes(boxes, (height, width), batch.sizes[index])
        assert inside[0].tolist() == pytest.approx([0, 0, batch.sizes[index][1], batch.sizes[index][0]])
        torch.testing.assert_close(boxes_to_original(inside, batch, index), boxes)


def test_back_is_inside_the_original():
    batch = ImageBatcher(min_size=100)([torch.rand(3, 50, 50)])
    assert boxes_to_original(torch.tensor([[-5.0, 0, 130, 90]]), batch, 0).tolist() == [[0, 0, 50, 45]]


def test_a_bright_square_is_where_its_box_says():
    """Image and boxes are resized alike: the box of the resized image holds what is bright and nothing else."""
    image = torch.zeros(3, 90, 130)
    image[:, 30:60, 40:100] = 1
    target = {"boxes": torch.tensor([[40, 30, 100, 60.0]]), "labels": torch.tensor([1])}
    batch = ImageBatcher(min_size=45)([image], [target])
    x1, y1, x2, y2 = (int(v) for v in batch.targets[0]["boxes"][0])
    assert batch.images[0, :, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].min() > 0.95
    assert batch.images[0].sum() == pytest.approx(3 * (x2 - x1) * (y2 - y1), rel=0.02)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([], ValueError, "at least one image"),
        ([torch.zeros(3, 4, 4, dtype=torch.uint8)], TypeError, "image 0 must be a float tensor.*torch.uint8"),
        ([torch.zeros(3, 4, 4), "photo.jpg"], TypeError, "image 1 must be a float tensor.*str"),
        ([torch.zeros(1, 4, 4)], ValueError, r"image 0 must have shape \[3, height, width\], got \[1, 4, 4\]"),
        ([torch.zeros(3, 0, 4)], ValueError, r"got \[3, 0, 4\]"),
        ([torch.zeros(1, 3, 4, 4)], ValueError, r"got \[1, 3, 4, 4\]"),
    ],
)
def test_unusable_images(images, error, message):
    with pytest.raises(error, match=message):
        ImageBatcher()(images)


def test_unusable_arguments():
    with pytest.raises(ValueError, match="min_size must be at least 1"):
        ImageBatcher(min_size=0)
    with pytest.raises(ValueError, match="0 targets for 1 images"):
        ImageBatcher()([torch.zeros(3, 4, 4)], [])


def test_fixed_size():
    """Whatever its shape, an image becomes that large, and its boxes with it; the padding has nothing to do."""
    target = {"boxes": torch.tensor([[10.0, 20, 30, 40]]), "labels": torch.tensor([1])}
    images = [torch.ones(3, 50, 80), torch.ones(3, 100, 40)]
    batch = ImageBatcher(None, None, fixed_size=(100, 160))(images, [target, target])
    assert batch.images.shape == (2, 3, 100, 160)
    assert batch.sizes == [(100, 160)] * 2
    assert batch.original_sizes == [(50, 80), (100, 40)]
    assert [t["boxes"].tolist() for t in batch.targets] == [[[20, 40, 60, 80]], [[40, 20, 120, 40]]]
    assert batch.scales == [2.0, 2.0]  # the second is only wider: twice the root of four times the area
    back = boxes_to_original(batch.targets[1]["boxes"], batch, 1)
    torch.testing.assert_close(back, target["boxes"])


def test_fixed_size_wins():
    batch = ImageBatcher(600, 1000, fixed_size=(64, 96))([torch.rand(3, 300, 400)])
    assert batch.images.shape == (1, 3, 64, 96)


def test_channels_and_range():
    """Values in the order and range of the trunk, then the mean, in that order too."""
    image = torch.tensor([0.2, 0.4, 1.0])[:, None, None].expand(3, 40, 40)
    batcher = ImageBatcher(40, None, (100.0, 10.0, 1.0), (1.0, 2.0, 5.0), channels="bgr", value_range=255)
    torch.testing.assert_close(batcher([image]).images[0, :, 7, 9], torch.tensor([155.0, 46, 10]))
    assert image[:, 0, 0].tolist() == pytest.approx([0.2, 0.4, 1.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fixed_size": (0, 5)}, r"fixed_size must be \(height, width\) of at least 1 pixel or None, got \(0, 5\)"),
        ({"fixed_size": (5,)}, r"fixed_size must be .* got \(5,\)"),
        ({"channels": "hsv"}, "channels must be 'rgb' or 'bgr', got 'hsv'"),
        ({"value_range": 0}, "value_range and std must be positive"),
        ({"std": (1.0, 0.0, 1.0)}, "value_range and std must be positive"),
    ],
)
def test_unusable_rules(arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageBatcher(**arguments)
