"""Rows of the fused stages: proposals from the maps of an RPN head, detections from the outputs of a box head.

torchvision's side is the code of its own detector, and begins where that detector does; its anchors are ready before
the clock starts, ours are part of the operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cases
import torch
from torch import Tensor

from fasterrcnn_ops import cell_anchors, grid_anchors
from fasterrcnn_ops.detections import select_detections
from fasterrcnn_ops.proposals import generate_proposals
from fasterrcnn_ops.reference import detections as reference_detections
from fasterrcnn_ops.reference import proposals as reference_proposals

from .agreement import same_selection
from .case import IMAGE, Case, Inputs

try:
    from torchvision.models.detection import rpn as torchvision_rpn
    from torchvision.models.detection.roi_heads import RoIHeads
except ImportError:  # cases can still be listed; the stage refuses to run without
    torchvision_rpn = RoIHeads = None

RATIOS = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Maps:
    """Shape of a proposal case: B images, the map and the stride of each level, sizes of the anchors of each."""

    name: str
    batch: int
    maps: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    anchor_sizes: tuple[tuple[int, ...], ...]
    pre_nms_top_n: int
    post_nms_top_n: int
    image: tuple[int, int] = IMAGE

    @property
    def anchors(self) -> int:
        """Of a location."""
        return len(self.anchor_sizes[0]) * len(RATIOS)

    @property
    def shape(self) -> str:
        count = sum(height * width for height, width in self.maps) * self.anchors
        return f"{self.name} {self.batch}x{count} {self.pre_nms_top_n} to {self.post_nms_top_n}"

    @property
    def rules(self) -> dict[str, float]:
        top_n = {"pre_nms_top_n": self.pre_nms_top_n, "post_nms_top_n": self.post_nms_top_n}
        return {**top_n, "nms_threshold": 0.7}

    def cells(self) -> list[Tensor]:
        """[A, 4] a level."""
        return [cell_anchors(sizes, RATIOS, rule="torchvision") for sizes in self.anchor_sizes]

    def head_maps(self, seed: int) -> tuple[list[Tensor], list[Tensor]]:
        """Logits [B, A, H, W] and deltas [B, 4A, H, W] a level: objects lie around 20 places of each image."""
        generator = torch.Generator().manual_seed(seed)
        places = torch.rand(self.batch, 1, 1, 20, 2, generator=generator)
        objectness, deltas = [], []
        for height, width in self.maps:
            y = (torch.arange(height) + 0.5)[:, None, None] / height - places[..., 0]  # [B, H, 1, objects]
            x = (torch.arange(width) + 0.5)[None, :, None] / width - places[..., 1]
            near = torch.exp(-(y**2 + x**2) / 0.03**2).amax(dim=3)[:, None]  # [B, 1, H, W]
            noise = torch.randn(self.batch, self.anchors, height, width, generator=generator)
            objectness.append(0.8 * noise - 4 + 9 * near)
            shape = (self.batch, 4 * self.anchors, height, width)
            deltas.append(torch.randn(shape, generator=generator) * 0.3)
        return objectness, deltas


def proposals_case(maps: Maps) -> Case:
    levels = len(maps.maps)

    def make(device: torch.device, seed: int) -> Inputs:
        objectness, deltas = maps.head_maps(seed)
        sizes = torch.tensor([maps.image] * maps.batch)
        return tuple(tensor.to(device) for tensor in (sizes, *maps.cells(), *objectness, *deltas))

    def taken_apart(tensors: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        return tuple(list(tensors[start : start + levels]) for start in range(0, 3 * levels, levels))

    def called(generate: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
        def call(sizes: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
            cells, objectness, deltas = taken_apart(tensors)
            return generate(objectness, deltas, cells, maps.strides, sizes, **maps.rules)

        return call

    network = proposal_network(maps) if torchvision_rpn else None
    anchors: dict[torch.device, Tensor] = {}

    def theirs(sizes: Tensor, *tensors: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        cells, objectness, deltas = taken_apart(tensors)
        device = sizes.device
        if device not in anchors:
            grids = zip(cells, maps.maps, maps.strides, strict=True)
            anchors[device] = torch.cat([grid_anchors(*grid) for grid in grids])
        per_level = [logits[0].numel() for logits in objectness]
        logits, offsets = torchvision_rpn.concat_box_prediction_layers(objectness, deltas)
        boxes = network.box_coder.decode(offsets, [anchors[device]] * maps.batch).view(maps.batch, -1, 4)
        return network.filter_proposals(boxes, logits, [maps.image] * maps.batch, per_level)

    return Case(
        op="generate_proposals",
        shape=maps.shape,
        dtype="float32",
        layout="NCHW",
        make=make,
        ours=called(generate_proposals),
        theirs=theirs,
        reference=called(reference_proposals.generate_proposals),
        agree=same_selection(),
        theirs_in_graph=False,  # filters by masks, whose size it reads back
    )


def proposal_network(maps: Maps):
    """torchvision's RPN by the same rules; its head is not asked."""
    counts = [{"training": count, "testing": count} for count in (maps.pre_nms_top_n, maps.post_nms_top_n)]
    generator = torchvision_rpn.AnchorGenerator(maps.anchor_sizes, (RATIOS,) * len(maps.maps))
    network = torchvision_rpn.RegionProposalNetwork(generator, None, 0.7, 0.3, 256, 0.5, *counts, 0.7)
    return network.eval()


def fpn_proposals_case(batch: int, tiny: bool) -> Case:
    """Five levels over images of 800 × 1333."""
    if tiny:
        sizes = ((3, 5), (2, 3))
        return proposals_case(Maps("FPN", batch, sizes, (16, 32), ((32,), (64,)), 20, 30, image=(48, 80)))
    sizes = ((200, 336), (100, 168), (50, 84), (25, 42), (13, 21))
    anchor_sizes = ((32,), (64,), (128,), (256,), (512,))
    return proposals_case(Maps("FPN", batch, sizes, (4, 8, 16, 32, 64), anchor_sizes, 1000, 1000))


def single_map_proposals_case(batch: int, tiny: bool) -> Case:
    """One map of stride 16, as the C4 systems have it."""
    if tiny:
        return proposals_case(Maps("C4", batch, ((6, 9),), (16,), ((32, 64),), 60, 20, image=(96, 144)))
    return proposals_case(Maps("C4", batch, ((50, 84),), (16,), ((128, 256, 512),), 6000, 1000))


def select_detections_case(proposals: int, classes: int) -> Case:
    """The last stage of one image; ``classes`` counts the background."""
    rules = {"score_threshold": 0.05, "nms_threshold": 0.5, "max_detections": 100}

    def make(device: torch.device, seed: int) -> Inputs:
        """Most proposals are background, a fifth shows a class."""
        boxes, _ = cases.rpn_like(proposals, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(proposals, classes, generator=generator)
        logits[:, 0] += 6
        sure = torch.randperm(proposals, generator=generator)[: proposals // 5]
        logits[sure, torch.randint(1, classes, (len(sure),), generator=generator)] += 8
        deltas = torch.randn(proposals, 4 * classes, generator=generator)
        inputs = (logits[None], deltas[None], boxes[None], torch.tensor([proposals]), torch.tensor([IMAGE]))
        return tuple(tensor.to(device) for tensor in inputs)

    heads = RoIHeads(None, None, None, 0.5, 0.5, 512, 0.25, None, *rules.values()) if RoIHeads else None

    def theirs(logits: Tensor, deltas: Tensor, boxes: Tensor, count: Tensor, sizes: Tensor) -> tuple[list[Tensor], ...]:
        found, scores, labels = heads.postprocess_detections(logits[0], deltas[0], [boxes[0]], [IMAGE])
        return found, labels, scores

    return Case(
        op="select_detections",
        shape=f"{proposals}x{classes}",
        dtype="float32",
        layout="",
        make=make,
        ours=lambda *inputs: select_detections(*inputs, **rules),
        theirs=theirs,
        reference=lambda *inputs: reference_detections.select_detections(*inputs, **rules),
        agree=same_selection(),
        theirs_in_graph=False,  # masks, as above
    )
