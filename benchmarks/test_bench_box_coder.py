"""encode_boxes and decode_boxes on the CPU against the reference and torchvision (decoding, then clipping)."""

from __future__ import annotations

import cases
import pytest
import torch

from fasterrcnn_ops import box_coder as ours
from fasterrcnn_ops.reference import box_coder as reference

try:
    from torchvision.models.detection._utils import BoxCoder
    from torchvision.ops import clip_boxes_to_image
except ImportError:  # the `rival` fixture skips these runs and says so
    BoxCoder = clip_boxes_to_image = None

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
IMAGE = (cases.IMAGE_HEIGHT, cases.IMAGE_WIDTH)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-3)


def sized_boxes(n: int, seed: int) -> torch.Tensor:
    """Boxes of at least a pixel: clipping leaves some proposals without area, which encode to infinity."""
    boxes, _ = cases.rpn_like(n, seed=seed)
    return torch.cat((boxes[:, :2], boxes[:, 2:] + 1), dim=1)


@pytest.mark.parametrize(
    ("n", "per_anchor"), [(268_569, 1), (1000, 91)], ids=["fpn_268569_anchors", "head_1000_rois_91_classes"]
)
def test_decode_boxes(race, n, per_anchor):
    anchors = sized_boxes(n, seed=0)
    deltas = torch.randn(n, 4 * per_anchor, generator=torch.Generator().manual_seed(1)) * torch.tensor(0.5)

    def theirs():
        boxes = BoxCoder(WEIGHTS).decode(deltas, [anchors])  # [N, K, 4]
        return clip_boxes_to_image(boxes, IMAGE).flatten(1)

    race(
        f"decode_boxes/{n}x{per_anchor}_clipped",
        {
            "ours": lambda: ours.decode_boxes(deltas, anchors, WEIGHTS, image_size=IMAGE),
            "reference": lambda: reference.decode_boxes(deltas, anchors, WEIGHTS, image_size=IMAGE),
            "torchvision": theirs,
        },
        close,
    )


@pytest.mark.parametrize("n", [512, 268_569])
def test_encode_boxes(race, n):
    boxes, anchors = sized_boxes(n, seed=0), sized_boxes(n, seed=1)
    race(
        f"encode_boxes/{n}",
        {
            "ours": lambda: ours.encode_boxes(boxes, anchors, WEIGHTS),
            "reference": lambda: reference.encode_boxes(boxes, anchors, WEIGHTS),
            "torchvision": lambda: BoxCoder(WEIGHTS).encode([boxes], [anchors])[0],
        },
        close,
    )
