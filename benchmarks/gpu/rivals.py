"""Two detectors of the same weights: ours by torchvision's rules, and torchvision's around the same modules.

torchvision's ``GeneralizedRCNN`` keeps everything of its own but the layers with parameters: its transform, anchors,
proposals, sampling, matching, pooling, losses and selection of detections. Where our systems have other rules than it
(anchors across the border, small proposals, inclusive pixels, colours), ours are set to torchvision's, so that both
find the same. Images come at the size the model works at; torchvision's resizing is switched off.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fasterrcnn
from fasterrcnn.backbone.resnet import Bottleneck
from fasterrcnn.model import TwoStageDetector
from fasterrcnn.types import Target

try:
    from torchvision.models.detection import anchor_utils, generalized_rcnn, roi_heads, rpn, transform
    from torchvision.ops import MultiScaleRoIAlign
except ImportError:  # rows can still be listed; the stage refuses to run without
    anchor_utils = None

NUM_CLASSES = 20
IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
SMALLEST_PROPOSAL = 1e-3  # pixels, torchvision's
# What each system does otherwise than by itself. Images are not resized.
RULES = {
    "classic_vgg16": {"roi_pooling": "align", "min_size": None, "max_size": None, **IMAGENET},
    "resnet50_c4": {
        **{"min_size": None, "max_size": None, "image_channels": "rgb", "image_range": 1.0, **IMAGENET},
        **{"inclusive": False, "rpn_min_size_includes_last_pixel": False, "rpn_border": "keep"},
        **{"roi_sampling_ratio": 2},
    },
}
# Of each system the layers that predict: objectness, its offsets, classes, their offsets.
PREDICTORS = {
    "classic_vgg16": ("rpn.score", "rpn.loc", "head.score", "head.cls_loc"),
    "resnet50_c4": (
        *("rpn.head.cls_logits", "rpn.head.bbox_pred"),
        *("roi_heads.box.predictor.cls_score", "roi_heads.box.predictor.bbox_pred"),
    ),
}
# Standard deviation of what they say, so that scores and boxes vary as much as a trained network's.
SPREAD = (2.0, 0.2, 2.0, 0.5)
BACKGROUND = 3.0  # logits that background is ahead


def ours_by_their_rules(system: str, device: torch.device, *, tiny: bool = False) -> TwoStageDetector:
    """One of our systems with random weights of a sensible spread, in evaluation mode.

    Args:
        system: A name in ``RULES``.
        device: Where to.
        tiny: With the tiny backbone, for tests.
    """
    torch.manual_seed(0)
    backbone = {"backbone": "tiny"} if tiny else {}
    model = fasterrcnn.build(system, num_classes=NUM_CLASSES, **backbone, **RULES[system]).eval()
    layer = model.rpn.proposal_layer
    model.rpn.proposal_layer = dataclasses.replace(
        layer, min_size=SMALLEST_PROPOSAL, scale_min_size=False, filter_before_top_k=False
    )
    for module in model.modules():
        if isinstance(module, Bottleneck):  # else the frozen norms double the features in every block
            module.bn3.weight.data.fill_(0.2)
    model.to(device)
    spread_predictions(model, PREDICTORS[system])
    return model


@torch.no_grad()
def spread_predictions(model: TwoStageDetector, names: tuple[str, ...]) -> None:
    """Scales and shifts the predictors so that on a picture every channel has mean 0 and the wanted deviation."""
    images = pictures(1, (256, 320), 7, model.device)
    sizes = torch.tensor([[256, 320]], device=model.device)
    said: dict[nn.Module, Tensor] = {}
    for stage in (0, 2):  # proposals first: what the second stage sees depends on them
        layers = [model.get_submodule(name) for name in names[stage : stage + 2]]
        hooks = [layer.register_forward_hook(lambda layer, _, out: said.update({layer: out})) for layer in layers]
        model.forward_padded(images, sizes)
        for layer, hook, spread in zip(layers, hooks, SPREAD[stage : stage + 2], strict=True):
            hook.remove()
            by_channel = said[layer].transpose(0, 1).flatten(1).float()
            factor = spread / by_channel.std(dim=1).clamp(min=1e-12)
            layer.weight.mul_(factor.view(-1, *[1] * (layer.weight.dim() - 1)))
            layer.bias.copy_((layer.bias - by_channel.mean(dim=1)) * factor)
    model.get_submodule(names[2]).bias[0] += BACKGROUND


def pictures(count: int, size: tuple[int, int], seed: int, device: torch.device) -> Tensor:
    """float32 [count, 3, H, W] in 0–1: noise of several wavelengths, so that features differ from place to place."""
    generator = torch.Generator().manual_seed(seed)
    layers = [
        F.interpolate(torch.rand(count, 3, cells, cells, generator=generator), size, mode="bilinear")
        for cells in (4, 16, 64)
    ]
    return (sum(layers) / len(layers)).to(device)


def truth(count: int, size: tuple[int, int], seed: int, device: torch.device) -> list[Target]:
    """Eight objects of each image, sides a fifth to half of the image's."""
    generator = torch.Generator().manual_seed(seed)
    extent = torch.tensor([size[1], size[0]])
    targets = []
    for _ in range(count):
        side = (0.2 + 0.3 * torch.rand(8, 2, generator=generator)) * extent
        corner = torch.rand(8, 2, generator=generator) * (extent - side)
        labels = torch.randint(1, NUM_CLASSES + 1, (8,), generator=generator)
        targets.append({"boxes": torch.cat([corner, corner + side], dim=1).to(device), "labels": labels.to(device)})
    return targets


# --- torchvision's ---------------------------------------------------------------------------------------------------


class _Part(nn.Module):
    """A piece of our model in the place of torchvision's own layers. What it predicts is widened, as ours does."""

    def __init__(self, model: TwoStageDetector) -> None:
        super().__init__()
        self.model = model


class _Backbone(_Part):
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return OrderedDict({"0": self.model.features(images)})


class _RPNHead(_Part):
    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        output = self.model.rpn.predict(features[0])
        return [output.objectness_map.float()], [output.delta_map.float()]


class _BoxPredictor(_Part):
    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        logits, deltas = self.model.roi_heads.predict(pooled)
        return logits.float(), deltas.float()


def theirs_around(model: TwoStageDetector) -> nn.Module:
    """torchvision's detector on the modules of ``model``, which it shares; in the mode ours is in.

    Args:
        model: Of :func:`ours_by_their_rules`, or what ``optimize_for_inference`` made of it.

    Returns:
        ``theirs(images)`` → dicts of ``boxes``, ``labels`` and ``scores``; in training mode
        ``theirs(images, targets)`` → losses.
    """
    grid, layer, anchor_targets = model.rpn.anchors, model.rpn.proposal_layer, model.anchor_targets
    proposal_targets, selection = model.proposal_targets, model.detection_layer
    counts = [{"training": counts[0], "testing": counts[1]} for counts in (layer.pre_nms_top_n, layer.post_nms_top_n)]
    network = rpn.RegionProposalNetwork(
        _anchors(grid.cell_anchors),
        _RPNHead(model),
        *(anchor_targets.matcher.positive_iou, anchor_targets.matcher.negative_iou),
        *(anchor_targets.sampler.num_samples, anchor_targets.sampler.positive_fraction),
        *counts,
        layer.nms_threshold,
    )
    heads = roi_heads.RoIHeads(
        _pooler(model),
        nn.Identity(),
        _BoxPredictor(model),
        *(proposal_targets.matcher.positive_iou, proposal_targets.matcher.negative_iou),
        *(proposal_targets.sampler.num_samples, proposal_targets.sampler.positive_fraction),
        selection.coder.weights,
        *(selection.score_threshold, selection.nms_threshold, selection.max_detections),
    )
    rules = model.batcher
    theirs = generalized_rcnn.GeneralizedRCNN(_Backbone(model), network, heads, _transform(rules.mean, rules.std))
    return theirs.train(model.training)


def _transform(mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """torchvision's, without resizing: even by a factor of 1 it would interpolate."""

    class Transform(transform.GeneralizedRCNNTransform):
        def resize(self, image: Tensor, target: Target | None = None) -> tuple[Tensor, Target | None]:
            return image, target

    return Transform(1, 1, list(mean), list(std))


def _anchors(cells: Tensor) -> nn.Module:
    """torchvision's generator with our cell anchors, in float32 whatever the features are."""

    class Anchors(anchor_utils.AnchorGenerator):
        def forward(self, image_list, feature_maps: list[Tensor]) -> list[Tensor]:
            shapes = [torch.empty(1, device=maps.device).expand(maps.shape) for maps in feature_maps]
            return super().forward(image_list, shapes)

    generator = Anchors(((1,),), ((1.0,),))
    generator.cell_anchors = [cells.clone()]
    return generator


def _pooler(model: TwoStageDetector) -> nn.Module:
    """torchvision's module, on widened features where they are half: its kernels know no bfloat16."""
    ours = model.roi_heads.pooler

    class Pooler(MultiScaleRoIAlign):
        def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
            wide = {name: maps.float() for name, maps in x.items()}
            return super().forward(wide, boxes, image_shapes).to(next(iter(x.values())).dtype)

    return Pooler(["0"], ours.size, ours.sampling_ratio)


def trainable_copy(model: TwoStageDetector) -> TwoStageDetector:
    """In training mode, with parameters of its own."""
    return copy.deepcopy(model).train()
