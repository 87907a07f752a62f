"""Whose file it is, and its tensors by this package's names and conventions.

Every family's trunk is brought to the names torchvision has for ResNet-50 (``conv1``, ``bn1``, ``layer1`` …
``layer4``), which a backbone's :class:`~fasterrcnn.backbone.PretrainedSource` then places; RPN and predictors get the
C4 line's names. Conventions that differ are converted: background's place among the classes, box columns, the order of
anchors, BatchNorm folded into two numbers, and (in ``stem``) colours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fasterrcnn.weights.stem import InputRule

EPS = 1e-5  # of every BatchNorm here and there
IMAGENET = InputRule("rgb", 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CAFFE = InputRule("bgr", 255.0, (102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0))
CAFFE_ROUNDED = InputRule("bgr", 255.0, (103.53, 116.28, 123.675), (1.0, 1.0, 1.0))  # detectron2's

# Arguments of build("resnet50_c4", …) that make it compute what detectron2's R50-C4 does. For a training with other
# anchors, give its anchor_sizes and anchor_ratios.
DETECTRON2: dict[str, Any] = {
    "anchor_rule": "centered",
    "anchor_sizes": (32, 64, 128, 256, 512),
    "inclusive": False,
    "rpn_min_size_includes_last_pixel": False,
    "roi_aligned": True,
    "image_mean": CAFFE_ROUNDED.mean,
}

CLASSIC, C4, DETECTRON_2, CAFFE2, RESNET, VGG = (
    "the classic PyTorch family",
    "maskrcnn-benchmark",
    "detectron2",
    "Detectron",
    "torchvision ResNet-50",
    "torchvision VGG-16",
)
_C4_BRANCHES = ("roi_heads.mask.", "roi_heads.keypoint.")
_DETECTRON2_BRANCHES = ("roi_heads.mask_head.", "roi_heads.keypoint_head.")
_BRANCHES = "mask and keypoint branches have no place here"


@dataclass
class Converted:
    """Tensors of a file on their way into a detector.

    Attributes:
        family: Whose file it is.
        trunk: ImageNet trunk by torchvision's names, including layer4 or the fully connected layers.
        heads: RPN and predictors by the C4 line's names; empty for a trunk alone.
        whole: Instead of both: everything by the detector's own names.
        input: What the first convolution was trained on, where that is known.
        left: Names in the file without a place in any detector of this package.
        names: Name here → name in the file, where they differ.
        notes: What was converted.
    """

    family: str
    trunk: dict[str, Tensor] = field(default_factory=dict)
    heads: dict[str, Tensor] = field(default_factory=dict)
    whole: dict[str, Tensor] = field(default_factory=dict)
    input: InputRule | None = None
    left: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def convert(tensors: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> Converted | None:
    """Recognises a family by its names and converts.

    Args:
        tensors: By the file's names.
        arguments: Those the detector was built with.

    Returns:
        None where the names are no family's.
    """
    names = list(tensors)
    if any(re.match(r"(proposal_generator|roi_heads\.(res5|box_predictor))\.", name) for name in names) or any(
        re.match(r"(backbone\.)?(bottom_up\.)?res[2-5]\.\d+\.(conv\d|shortcut)\.", name) for name in names
    ):
        return _detectron2(tensors, arguments)
    if any(re.match(r"res[2-5]_\d+_branch", name) for name in names):
        return _detectron(tensors)
    if any(name.startswith(("roi_heads.box.", "backbone.body.")) for name in names):
        return _c4(tensors)
    if any(name.startswith(("rpn.conv1.", "rpn.score.", "head.cls_loc.", "extractor.")) for name in names):
        return _classic(tensors)
    if "conv1.weight" in tensors and "layer1.0.conv1.weight" in tensors:
        return Converted(RESNET, trunk=dict(tensors), input=IMAGENET)
    if "features.0.weight" in tensors:
        return Converted(VGG, trunk=dict(tensors), input=IMAGENET)
    return None


def refuse_other_meaning(others: Iterable[str]) -> None:
    """Raises ValueError for files whose tensors have this package's names and shapes, but mean something else.

    Args:
        others: Keys beside the state dict in the file.
    """
    if {"other_info", "vis_info"} & set(others):
        raise ValueError(
            "is of the line of the classic family that stores boxes as (y, x) and whose anchors lie around (8, 8): its "
            "names are this package's, its numbers mean something else"
        )


def _classic(tensors: Mapping[str, Tensor]) -> Converted:
    result = Converted(CLASSIC, whole=dict(tensors))
    # With its dropout kept, VGG's second fully connected layer has the number 3.
    if "head.classifier.3.weight" in tensors and "head.classifier.2.weight" not in tensors:
        for part in ("weight", "bias"):
            if f"head.classifier.3.{part}" in tensors:
                _rename(result.whole, f"head.classifier.3.{part}", f"head.classifier.2.{part}", result)
    return result


def _c4(tensors: Mapping[str, Tensor]) -> Converted:
    """maskrcnn-benchmark's own files carry their anchors; a state dict without any may be this package's."""
    if not any("anchor_generator." in name for name in tensors):
        return Converted(C4, whole=dict(tensors))
    result = Converted(C4, input=CAFFE, notes=["anchors are computed, not loaded"])
    for name, tensor in tensors.items():
        if "anchor_generator." in name or name.startswith(_C4_BRANCHES):
            result.left.append(name)
            continue
        stripped = re.sub(
            r"^(backbone\.body\.(stem\.)?|roi_heads\.box\.feature_extractor\.head\.(?=layer4\.))", "", name
        )
        place = result.heads if stripped == name else result.trunk
        place[stripped] = tensor
        result.names[stripped] = name
    if any(name.startswith(_C4_BRANCHES) for name in result.left):
        result.notes.append(_BRANCHES)
    return result


def _detectron2(tensors: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> Converted:
    result = Converted(DETECTRON_2, input=CAFFE_ROUNDED)
    head = {"objectness_logits": "cls_logits", "anchor_deltas": "bbox_pred"}
    for name, tensor in tensors.items():
        stripped = re.sub(r"^backbone\.(bottom_up\.)?|^bottom_up\.|^roi_heads\.(?=res5\.)", "", name)
        new = None
        if match := re.fullmatch(r"stem\.conv1\.(norm\.)?(\w+)", stripped):
            new = f"bn1.{match[2]}" if match[1] else f"conv1.{match[2]}"
        elif match := re.fullmatch(r"res([2-5])\.(\d+)\.(conv([123])|shortcut)\.(norm\.)?(\w+)", stripped):
            block = f"layer{int(match[1]) - 1}.{match[2]}"
            if match[4]:
                new = f"{block}.{'bn' if match[5] else 'conv'}{match[4]}.{match[6]}"
            else:
                new = f"{block}.downsample.{1 if match[5] else 0}.{match[6]}"
        if new is not None:
            result.trunk[new] = tensor
        elif match := re.fullmatch(
            r"proposal_generator\.rpn_head\.(conv|objectness_logits|anchor_deltas)\.(\w+)", name
        ):
            new = f"rpn.head.{head.get(match[1], match[1])}.{match[2]}"
            result.heads[new] = tensor
        elif match := re.fullmatch(r"roi_heads\.box_predictor\.((cls_score|bbox_pred)\.\w+)", name):
            new = f"roi_heads.box.predictor.{match[1]}"
            result.heads[new] = tensor
        elif re.match(r"pixel_(mean|std)$|(stem\.)?fc\.|.*anchor_generator\.", name) or name.startswith(
            _DETECTRON2_BRANCHES
        ):
            result.left.append(name)
            continue
        else:
            new = name  # reported as unexpected
            result.heads[new] = tensor
        result.names[new] = name
    if any(name.startswith(_DETECTRON2_BRANCHES) for name in result.left):
        result.notes.append(_BRANCHES)
    if any("anchor_generator." in name for name in result.left):
        result.notes.append("anchors are computed, not loaded")
    result.input = _pixel_rule(tensors) or result.input
    _fill_statistics(result)
    if result.heads:
        _background_first(result)
        _anchors_by_ratio(result, arguments)
        different = [k for k, v in DETECTRON2.items() if k != "anchor_sizes" and arguments.get(k, v) != v]
        if different:
            result.notes.append(
                f"this detector differs from detectron2's in {', '.join(different)}: fasterrcnn.weights.DETECTRON2 has "
                "the arguments that do not"
            )
    return result


_CAFFE2_NORM = {
    "s": "weight",
    "gamma": "weight",
    "b": "bias",
    "beta": "bias",
    "rm": "running_mean",
    "running_mean": "running_mean",
    "riv": "running_var",
    "running_var": "running_var",
}
_CAFFE2_CONV = {"w": "weight", "b": "bias"}
_CAFFE2_HEADS = {
    "conv_rpn": "rpn.head.conv",
    "rpn_cls_logits": "rpn.head.cls_logits",
    "rpn_bbox_pred": "rpn.head.bbox_pred",
    "cls_score": "roi_heads.box.predictor.cls_score",
    "bbox_pred": "roi_heads.box.predictor.bbox_pred",
}


def _detectron(tensors: Mapping[str, Tensor]) -> Converted:
    """Caffe2's names, which maskrcnn-benchmark and detectron2 read as well; classes and anchors are in our order."""
    result = Converted(CAFFE2, input=CAFFE)
    branches = {"1": ("downsample.0", "downsample.1")}
    branches |= {f"2{letter}": (f"conv{i}", f"bn{i}") for i, letter in enumerate("abc", start=1)}
    for name, tensor in tensors.items():
        if name.endswith("_momentum") or re.match(r"fc1000_|pred_|lr$|weight_order$|.*mask|kps_|conv_fcn", name):
            result.left.append(name)
            continue
        place, new = result.heads, name  # unless it is recognised, reported as unexpected
        if match := re.fullmatch(r"(?:res_)?conv1_(bn_)?(\w+)", name):
            place = result.trunk
            new = f"bn1.{_CAFFE2_NORM.get(match[2], match[2])}" if match[1] else f"conv1.{_of(match[2])}"
        elif match := re.fullmatch(r"res([2-5])_(\d+)_branch(1|2a|2b|2c)_(bn_)?(\w+)", name):
            place = result.trunk
            layer = branches[match[3]][1 if match[4] else 0]
            part = _CAFFE2_NORM.get(match[5], match[5]) if match[4] else _of(match[5])
            new = f"layer{int(match[1]) - 1}.{match[2]}.{layer}.{part}"
        elif match := re.fullmatch(rf"({'|'.join(_CAFFE2_HEADS)})_([wb])", name):
            new = f"{_CAFFE2_HEADS[match[1]]}.{_of(match[2])}"
        place[new] = tensor
        result.names[new] = name
    _fold_biases(result)
    _fill_statistics(result)
    return result


def _of(part: str) -> str:
    return _CAFFE2_CONV.get(part, part)


def _rename(tensors: dict[str, Tensor], old: str, new: str, result: Converted) -> None:
    tensors[new] = tensors.pop(old)
    result.names[new] = old
    result.notes.append(f"{old} is {new} here")


def _norms(trunk: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """(convolution, norm) of a ResNet by torchvision's names."""
    for name in list(trunk):
        if match := re.fullmatch(r"(.*?)(bn(\d)|downsample\.1)\.weight", name):
            conv = f"conv{match[3]}" if match[3] else "downsample.0"
            yield f"{match[1]}{conv}", f"{match[1]}{match[2]}"


def _fold_biases(result: Converted) -> None:
    """Detectron's ImageNet files have biases on convolutions that a norm follows: they lower its running mean."""
    trunk = result.trunk
    for conv, norm in _norms(trunk):
        bias = trunk.pop(f"{conv}.bias", None)
        if bias is not None:
            mean = trunk.get(f"{norm}.running_mean", torch.zeros_like(bias))
            if mean.shape == bias.shape:
                trunk[f"{norm}.running_mean"] = mean - bias
            result.left.append(result.names.pop(f"{conv}.bias"))


def _fill_statistics(result: Converted) -> None:
    """Norms folded into factor and shift get the mean 0 and the variance with which they are just these."""
    filled = 0
    for _, norm in _norms(result.trunk):
        weight = result.trunk[f"{norm}.weight"]
        for part, value in (("running_mean", 0.0), ("running_var", 1.0 - EPS)):
            if f"{norm}.{part}" not in result.trunk:
                result.trunk[f"{norm}.{part}"] = torch.full_like(weight, value)
                filled += part == "running_var"
    if filled:
        result.notes.append(f"{filled} norms are a factor and a shift: mean 0, variance 1")


def _background_first(result: Converted) -> None:
    for part in ("weight", "bias"):
        name = f"roi_heads.box.predictor.cls_score.{part}"
        if name in result.heads and result.heads[name].ndim:
            result.heads[name] = result.heads[name].roll(1, dims=0)
    result.notes.append("background moved from the last class to the first")


def _anchors_by_ratio(result: Converted, arguments: Mapping[str, Any]) -> None:
    """detectron2 counts anchors by size, then by ratio; every rule here but its own the other way round."""
    sizes, ratios = (len(arguments.get(f"anchor_{what}", ())) for what in ("sizes", "ratios"))
    if arguments.get("anchor_rule", "rounded") == "centered" or sizes * ratios == 0:
        return
    order = torch.arange(sizes * ratios).reshape(sizes, ratios).t().flatten()
    moved = False
    for layer, numbers in (("cls_logits", 1), ("bbox_pred", 4)):
        for part in ("weight", "bias"):
            name = f"rpn.head.{layer}.{part}"
            tensor = result.heads.get(name)
            if tensor is not None and tensor.ndim and len(tensor) == numbers * sizes * ratios:
                rows = tensor.reshape(sizes * ratios, numbers, *tensor.shape[1:])
                result.heads[name] = rows[order].reshape(tensor.shape)
                moved = True
    if moved:
        result.notes.append("anchors reordered by ratio, then size")


def _pixel_rule(tensors: Mapping[str, Tensor]) -> InputRule | None:
    """The colours of a detectron2 file that says so: the mean of blue is the smallest."""
    mean, std = (tensors.get(f"pixel_{what}") for what in ("mean", "std"))
    if mean is None or std is None or mean.numel() != 3 or std.numel() != 3 or not bool((std > 0).all()):
        return None
    mean, std = mean.flatten().tolist(), std.flatten().tolist()
    return InputRule("bgr" if mean[0] < mean[2] else "rgb", 255.0, tuple(mean), tuple(std))


def fit_box_columns(tensors: dict[str, Tensor], shapes: Mapping[str, torch.Size], notes: list[str]) -> None:
    """Gives background box columns (of zeros, which are never used) or takes them away, as the detector has them."""
    layer = "roi_heads.box.predictor"
    scores = tensors.get(f"{layer}.cls_score.bias")
    if scores is None or shapes.get(f"{layer}.cls_score.bias") != scores.shape:
        return
    both = 4 * len(scores)
    changed = ""
    for part in ("weight", "bias"):
        name = f"{layer}.bbox_pred.{part}"
        if name not in tensors or name not in shapes or not tensors[name].ndim:
            continue
        found, wanted = len(tensors[name]), shapes[name][0]
        if (found, wanted) == (both - 4, both):
            tensors[name] = torch.cat([torch.zeros_like(tensors[name][:4]), tensors[name]])
            changed = "background's box columns added, as zeros"
        elif (found, wanted) == (both, both - 4):
            tensors[name] = tensors[name][4:]
            changed = "background's box columns taken away"
    if changed:
        notes.append(changed)
