"""Weights laid out as other projects lay theirs out, with numbers of ours.

Names are written out here, from those projects' code, not taken from the code under test.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import cache

import numpy as np
import torch

CLASSES, NARROW = 3, 8  # foreground classes, channels of the RPN
BLOCKS = {2: 3, 3: 4, 4: 6, 5: 3}
NORM = ("weight", "bias", "running_mean", "running_var")


def draw(shape, part, generator):
    """Numbers with which a trunk of fifty layers neither grows nor dies."""
    values = torch.randn(shape, generator=generator)
    if part == "running_var":
        return values.abs() + 0.5
    if len(shape) == 4:
        return values * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
    return values * 0.1 + (0.5 if part == "weight" and len(shape) == 1 else 0.0)


def resnet_layers():
    """(stage 2…5, block, layer 1…3 or 0 for the shortcut, shape of the convolution) of ResNet-50 but for its stem."""
    channels = 64
    for stage, blocks in BLOCKS.items():
        planes = 64 * 2 ** (stage - 2)
        for block in range(blocks):
            yield stage, block, 1, (planes, channels, 1, 1)
            yield stage, block, 2, (planes, planes, 3, 3)
            yield stage, block, 3, (4 * planes, planes, 1, 1)
            if block == 0:
                yield stage, block, 0, (4 * planes, channels, 1, 1)
            channels = 4 * planes


@cache
def resnet(norm_parts=NORM):
    """Numbers of ResNet-50 by (stage, block, layer, "conv" or a part of the norm); the stem is (1, 0, 0, …)."""
    generator = torch.Generator().manual_seed(0)
    numbers = {}
    for stage, block, layer, shape in [(1, 0, 0, (64, 3, 7, 7)), *resnet_layers()]:
        numbers[stage, block, layer, "conv"] = draw(shape, "weight", generator)
        for part in norm_parts:
            numbers[stage, block, layer, part] = draw(shape[:1], part, generator)
    return numbers


@cache
def heads(anchors, columns=CLASSES + 1):
    """Numbers of RPN and predictors by (layer, part)."""
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "conv": (NARROW, 1024, 3, 3),
        "logits": (anchors, NARROW, 1, 1),
        "deltas": (4 * anchors, NARROW, 1, 1),
        "score": (CLASSES + 1, 2048),
        "loc": (4 * columns, 2048),
    }
    numbers = {}
    for layer, shape in shapes.items():
        numbers[layer, "weight"] = torch.randn(shape, generator=generator) * 0.02
        numbers[layer, "bias"] = torch.randn(shape[:1], generator=generator) * 0.1
    return numbers


def c4_file(anchors=9):
    trunk, rest = resnet(), heads(anchors)
    head = "roi_heads.box.feature_extractor.head"
    tensors = OrderedDict()
    for (stage, block, layer, part), numbers in trunk.items():
        if stage == 1:
            name = "backbone.body.stem." + ("conv1.weight" if part == "conv" else f"bn1.{part}")
        else:
            where = f"{head}.layer4" if stage == 5 else f"backbone.body.layer{stage - 1}"
            kinds = ("downsample.0", "downsample.1") if layer == 0 else (f"conv{layer}", f"bn{layer}")
            name = f"{where}.{block}." + (f"{kinds[0]}.weight" if part == "conv" else f"{kinds[1]}.{part}")
        tensors[f"module.{name}"] = numbers
    tensors["module.rpn.anchor_generator.cell_anchors.0"] = torch.zeros(anchors, 4)
    names = {
        "conv": "rpn.head.conv",
        "logits": "rpn.head.cls_logits",
        "deltas": "rpn.head.bbox_pred",
        "score": "roi_heads.box.predictor.cls_score",
        "loc": "roi_heads.box.predictor.bbox_pred",
    }
    for (layer, part), numbers in rest.items():
        tensors[f"module.{names[layer]}.{part}"] = numbers
    return {"model": tensors, "optimizer": {}, "scheduler": {}, "iteration": 90000}, trunk, rest


def detectron2_file(anchors, columns, norm_parts=NORM):
    trunk, rest = resnet(norm_parts), heads(anchors, columns)
    tensors = {}
    for (stage, block, layer, part), numbers in trunk.items():
        if stage == 1:
            layer_name = "backbone.stem.conv1"
        else:
            where = "roi_heads.res5" if stage == 5 else f"backbone.res{stage}"
            layer_name = f"{where}.{block}." + ("shortcut" if layer == 0 else f"conv{layer}")
        tensors[f"{layer_name}.weight" if part == "conv" else f"{layer_name}.norm.{part}"] = numbers
    names = {
        "conv": "proposal_generator.rpn_head.conv",
        "logits": "proposal_generator.rpn_head.objectness_logits",
        "deltas": "proposal_generator.rpn_head.anchor_deltas",
        "score": "roi_heads.box_predictor.cls_score",
        "loc": "roi_heads.box_predictor.bbox_pred",
    }
    for (layer, part), numbers in rest.items():
        tensors[f"{names[layer]}.{part}"] = numbers
    tensors["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(anchors, 4)
    tensors["pixel_mean"] = torch.tensor([103.53, 116.28, 123.675])[:, None, None]
    tensors["pixel_std"] = torch.ones(3, 1, 1)
    return tensors, trunk, rest


def background_first(rest):
    """C classes and then background → background and then the classes; boxes likewise, of zeros for background."""
    result = dict(rest)
    for part in ("weight", "bias"):
        score, loc = rest["score", part], rest["loc", part]
        result["score", part] = torch.stack([score[CLASSES], *score[:CLASSES]])
        result["loc", part] = torch.cat([torch.zeros_like(loc[:4]), loc])
    return result


def detectron_file(whole):
    trunk, rest = resnet(("weight", "bias")), heads(9)
    arrays = {}
    for (stage, block, layer, part), numbers in trunk.items():
        if stage == 1:
            base = "conv1" if part == "conv" else "res_conv1"
        else:
            base = f"res{stage}_{block}_branch" + ("1" if layer == 0 else f"2{'abc'[layer - 1]}")
        ending = {"conv": "w", "weight": "bn_s", "bias": "bn_b"}[part]
        arrays[f"{base}_{ending}"] = numbers.numpy()
        if whole:
            arrays[f"{base}_{ending}_momentum"] = np.zeros(1, np.float32)
    arrays["conv1_b"] = np.linspace(-1, 1, 64, dtype=np.float32)
    if whole:
        names = {
            "conv": "conv_rpn",
            "logits": "rpn_cls_logits",
            "deltas": "rpn_bbox_pred",
            "score": "cls_score",
            "loc": "bbox_pred",
        }
        arrays |= {f"{names[layer]}_{part[0]}": numbers.numpy() for (layer, part), numbers in rest.items()}
        return {"blobs": arrays, "cfg": "MODEL: …"}, trunk, rest
    arrays |= {"fc1000_w": np.zeros((1000, 2048), np.float32), "fc1000_b": np.zeros(1000, np.float32)}
    return arrays, trunk, rest


def torchvision_resnet():
    tensors = {}
    for (stage, block, layer, part), numbers in resnet().items():
        prefix = "" if stage == 1 else f"layer{stage - 1}.{block}."
        number = 1 if stage == 1 else layer
        kinds = ("downsample.0", "downsample.1") if stage > 1 and layer == 0 else (f"conv{number}", f"bn{number}")
        tensors[prefix + (f"{kinds[0]}.weight" if part == "conv" else f"{kinds[1]}.{part}")] = numbers
    return {**tensors, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
