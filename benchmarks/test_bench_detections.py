"""select_detections on the CPU against the reference and torchvision's RoIHeads.postprocess_detections."""

from __future__ import annotations

import cases
import pytest
import torch
from torch import Tensor

from fasterrcnn_ops import detections as ours
from fasterrcnn_ops.reference import detections as reference

try:
    from torchvision.models.detection.roi_heads import RoIHeads
except ImportError:  # the `rival` fixture skips these runs and says so
    RoIHeads = None

SIZE = (cases.IMAGE_HEIGHT, cases.IMAGE_WIDTH)
RULES = {"score_threshold": 0.05, "nms_threshold": 0.5, "max_detections": 100}


def head_outputs(count: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [K, C + 1], deltas [K, 4(C + 1)] and proposals [K, 4]: most are background, a fifth shows a class."""
    proposals, _ = cases.rpn_like(count)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(count, classes + 1, generator=generator)
    logits[:, 0] += 6
    sure = torch.randperm(count, generator=generator)[: count // 5]
    logits[sure, torch.randint(1, classes + 1, (len(sure),), generator=generator)] += 8
    return logits, torch.randn(count, 4 * (classes + 1), generator=generator), proposals


def same_detections(found, expected) -> None:
    def rows(result) -> Tensor:
        boxes, labels, scores, *count = result
        used = int(count[0]) if count else None
        table = torch.cat([-scores[0][:, None], labels[0][:, None], boxes[0]], dim=1)[:used]
        return torch.tensor(sorted(table.tolist()))

    torch.testing.assert_close(rows(found), rows(expected), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(("count", "classes"), [(1000, 90), (300, 20)])
def test_select_detections(race, count, classes):
    logits, deltas, proposals = head_outputs(count, classes)
    arguments = (logits[None], deltas[None], proposals[None], torch.tensor([count]), torch.tensor([SIZE]))
    implementations = {
        "ours": lambda: ours.select_detections(*arguments, **RULES),
        "reference": lambda: reference.select_detections(*arguments, **RULES),
    }
    if RoIHeads is not None:
        heads = RoIHeads(None, None, None, 0.5, 0.5, 512, 0.25, None, 0.05, 0.5, 100)

        def theirs():
            boxes, scores, labels = heads.postprocess_detections(logits, deltas, [proposals], [SIZE])
            return boxes, labels, scores

        implementations["torchvision"] = theirs
    race(f"select_detections/{count}_proposals_{classes}_classes", implementations, same_detections)
