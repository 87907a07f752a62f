"""generate_proposals on the CPU: 268,569 anchors of a five-level pyramid, an image of 800 × 1333 padded to 800 × 1344.

torchvision's side begins where its detector's does, with the head's maps, and has its anchors ready.
"""

from __future__ import annotations

import cases
import pytest
import torch
from torch import Tensor

from fasterrcnn_ops import cell_anchors
from fasterrcnn_ops import proposals as ours
from fasterrcnn_ops.reference import proposals as reference

try:
    from torchvision.models.detection import rpn as torchvision_rpn
    from torchvision.models.detection.image_list import ImageList
except ImportError:  # the `rival` fixture skips these runs and says so
    torchvision_rpn = None

ANCHORS = 3
MAPS = ((200, 336), (100, 168), (50, 84), (25, 42), (13, 21))
STRIDES = (4, 8, 16, 32, (61, 64))  # torchvision's: the size of the batch by that of the map
SIZE = (cases.IMAGE_HEIGHT, cases.IMAGE_WIDTH)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def head_maps(kind: str, layout: str) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Objectness, deltas and cell anchors. "noise": good anchors lie anywhere; "objects": around 20 places."""
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(20, 2, generator=generator)
    objectness, deltas = [], []
    for height, width in MAPS:
        logits = torch.randn(1, ANCHORS, height, width, generator=generator) * 2 - 3
        if kind == "objects":
            y = (torch.arange(height) + 0.5)[:, None, None] / height - places[:, 0]  # [H, 1, objects]
            x = (torch.arange(width) + 0.5)[None, :, None] / width - places[:, 1]
            near = torch.exp(-(y**2 + x**2) / 0.03**2).amax(dim=2)  # [H, W]
            logits = 0.4 * logits - 4 + 9 * near
        objectness.append(logits)
        deltas.append(torch.randn(1, 4 * ANCHORS, height, width, generator=generator) * 0.3)
    cells = [cell_anchors(size, (0.5, 1.0, 2.0), rule="torchvision") for size in (32, 64, 128, 256, 512)]
    to = {"memory_format": LAYOUTS[layout]}
    return [maps.contiguous(**to) for maps in objectness], [maps.contiguous(**to) for maps in deltas], cells


def same_proposals(found, expected) -> None:
    """Equal boxes and scores; torchvision leaves the order of equal scores open."""

    def rows(result) -> Tensor:
        boxes, scores, *count = result
        table = torch.cat([-scores[0][:, None], boxes[0]], dim=1)[: int(count[0]) if count else None]
        return torch.tensor(sorted(table.tolist()))

    torch.testing.assert_close(rows(found), rows(expected), rtol=1e-6, atol=1e-4)


def of_torchvision(objectness: list[Tensor], deltas: list[Tensor], top_n: int):
    generator = torchvision_rpn.AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    images = ImageList(torch.zeros(1, 3, 800, 1344), [SIZE])
    anchors = generator(images, objectness)
    counts = {"training": top_n, "testing": top_n}
    network = torchvision_rpn.RegionProposalNetwork(generator, None, 0.7, 0.3, 256, 0.5, counts, counts, 0.7).eval()
    per_level = [maps[0].numel() for maps in objectness]

    def theirs():
        logits, offsets = torchvision_rpn.concat_box_prediction_layers(objectness, deltas)
        boxes = network.box_coder.decode(offsets, anchors).view(1, -1, 4)
        return network.filter_proposals(boxes, logits, images.image_sizes, per_level)

    return theirs


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["noise", "objects"])
@pytest.mark.parametrize("top_n", [1000, 2000])
def test_generate_proposals(race, top_n, kind, layout):
    objectness, deltas, cells = head_maps(kind, layout)
    arguments = (objectness, deltas, cells, STRIDES, torch.tensor([SIZE]))
    rules = {"pre_nms_top_n": top_n, "post_nms_top_n": top_n, "nms_threshold": 0.7}
    implementations = {
        "ours": lambda: ours.generate_proposals(*arguments, **rules),
        "reference": lambda: reference.generate_proposals(*arguments, **rules),
    }
    if torchvision_rpn is not None:
        implementations["torchvision"] = of_torchvision(objectness, deltas, top_n)
    race(f"generate_proposals/fpn_{kind}_{top_n}_{layout}", implementations, same_proposals)
