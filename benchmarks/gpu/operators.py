"""The rows of the operator table: inputs, our call, torchvision's, a reference's, what must agree, the least work.

Letters: N boxes, K RoIs, C channels, a map of H × W pixels. Every case also exists at a tiny size, at which tests run
it on the CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cases
import torch
from torch import Tensor

import fasterrcnn_ops
from fasterrcnn_ops.reference import anchors as reference_anchors
from fasterrcnn_ops.reference import box_coder as reference_box_coder
from fasterrcnn_ops.reference import nms as reference_nms
from fasterrcnn_ops.reference import roi_align as reference_roi_align
from fasterrcnn_ops.reference import roi_pool as reference_roi_pool

from .agreement import all_equal, close_to, same_indices

try:
    import torchvision
    from torchvision.models.detection._utils import BoxCoder
    from torchvision.models.detection.anchor_utils import AnchorGenerator
except ImportError:  # cases can still be listed; the stage refuses to run without
    torchvision = BoxCoder = AnchorGenerator = None

IMAGE = (cases.IMAGE_HEIGHT, cases.IMAGE_WIDTH)
RATIOS = (0.5, 1.0, 2.0)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
Inputs = tuple[Tensor, ...]


def tensors_of(result: Any) -> list[Tensor]:
    """A tensor, or those of a tuple or list."""
    return [result] if isinstance(result, Tensor) else list(result)


def size_of(result: Any) -> int:
    """Bytes of a result or of inputs."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(result))


def _inputs_and_result(inputs: Inputs, result: Any) -> int:
    return size_of(inputs) + size_of(result)


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        op, shape, dtype, layout: the row's labels.
        make: (device, seed) → input tensors, fresh for every seed.
        ours, theirs, reference: called with the inputs. ``theirs`` returns what ours returns, up to ``agree``.
        agree: ``agree(found, expected)`` → how well they match, in words; raises AssertionError if not well enough.
        captured: the call of ours that a graph can hold (a fixed-capacity form, where ``ours`` reads back).
        theirs_in_graph: whether torchvision's call can be captured.
        least_bytes: (inputs, result of ours) → bytes to be read once and written once.
        pairs: box pairs to be compared, 0 if none.
        exact: ours on the card must equal ours on the CPU; asked where torchvision's result is not equal.
    """

    op: str
    shape: str
    dtype: str
    layout: str
    make: Callable[[torch.device, int], Inputs]
    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    reference: Callable[..., Any]
    agree: Callable[[Any, Any], str]
    captured: Callable[..., Any] | None = None
    theirs_in_graph: bool = True
    least_bytes: Callable[[Inputs, Any], int] = field(default=_inputs_and_result)
    pairs: int = 0
    exact: bool = False

    @property
    def name(self) -> str:
        return " ".join((self.op, self.shape, self.dtype, self.layout)).strip()

    @property
    def labels(self) -> dict[str, str]:
        return {"op": self.op, "shape": self.shape, "dtype": self.dtype, "layout": self.layout}


# --- boxes -----------------------------------------------------------------------------------------------------------


def anchors_case(tiny: bool) -> Case:
    """All anchors of a five-level pyramid over an 800 × 1333 image."""
    maps = ((3, 5), (2, 3)) if tiny else ((200, 336), (100, 168), (50, 84), (25, 42), (13, 21))
    sizes, strides = (32, 64, 128, 256, 512)[: len(maps)], (4, 8, 16, 32, 64)[: len(maps)]
    generator = AnchorGenerator(tuple((size,) for size in sizes), (RATIOS,) * len(maps)) if AnchorGenerator else None
    stride_tensors: dict[torch.device, list[list[Tensor]]] = {}

    def make(device: torch.device, seed: int) -> Inputs:
        cells = [fasterrcnn_ops.cell_anchors((size,), RATIOS, rule="torchvision") for size in sizes]
        return tuple(cell.to(device) for cell in cells)

    def theirs(*cells: Tensor) -> list[Tensor]:
        device = cells[0].device
        if device not in stride_tensors:
            stride_tensors[device] = [[torch.tensor(stride, device=device)] * 2 for stride in strides]
        generator.cell_anchors = list(cells)
        return generator.grid_anchors([list(shape) for shape in maps], stride_tensors[device])

    def placed(grid_anchors: Callable[..., Tensor], *cells: Tensor) -> list[Tensor]:
        return [grid_anchors(*level) for level in zip(cells, maps, strides, strict=True)]

    count = sum(height * width for height, width in maps) * len(RATIOS)
    return Case(
        op="anchors",
        shape=f"{count}x4",
        dtype="float32",
        layout="",
        make=make,
        ours=functools.partial(placed, fasterrcnn_ops.grid_anchors),
        theirs=theirs,
        reference=functools.partial(placed, reference_anchors.grid_anchors),
        agree=all_equal,
    )


def decode_case(n: int) -> Case:
    """RPN deltas to boxes, clipped to the image."""

    def make(device: torch.device, seed: int) -> Inputs:
        boxes, _ = cases.rpn_like(n, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        deltas = torch.randn(n, 4, generator=generator) * 0.5
        return deltas.to(device), torch.cat((boxes[:, :2], boxes[:, 2:] + 1), dim=1).to(device)

    def theirs(deltas: Tensor, anchors: Tensor) -> Tensor:
        boxes = BoxCoder((1.0, 1.0, 1.0, 1.0)).decode(deltas, [anchors])
        return torchvision.ops.clip_boxes_to_image(boxes, IMAGE).flatten(1)

    return Case(
        op="decode",
        shape=f"{n}x4",
        dtype="float32",
        layout="",
        make=make,
        ours=lambda deltas, anchors: fasterrcnn_ops.decode_boxes(deltas, anchors, image_size=IMAGE),
        theirs=theirs,
        reference=lambda deltas, anchors: reference_box_coder.decode_boxes(deltas, anchors, image_size=IMAGE),
        agree=close_to(relative=1e-5, absolute=2e-3),  # pixels; coordinates up to 1333
        theirs_in_graph=False,  # copies constants from the host
    )


def nms_case(n: int, threshold: float = 0.7) -> Case:
    def make(device: torch.device, seed: int) -> Inputs:
        return tuple(tensor.to(device) for tensor in cases.rpn_like(n, seed=seed))

    return Case(
        op="nms",
        shape=f"{n}",
        dtype="float32",
        layout="",
        make=make,
        ours=lambda boxes, scores: fasterrcnn_ops.nms(boxes, scores, threshold),
        theirs=lambda boxes, scores: torchvision.ops.nms(boxes, scores, threshold),
        reference=lambda boxes, scores: reference_nms.nms(boxes, scores, threshold),
        agree=same_indices,
        captured=lambda boxes, scores: fasterrcnn_ops.nms_padded(boxes, scores, iou_threshold=threshold, max_output=n),
        theirs_in_graph=False,  # resolves on the host, or reads a count back
        pairs=n * (n - 1) // 2,
        exact=True,
    )


def batched_nms_case(classes: int, per_class: int, threshold: float = 0.5) -> Case:
    n = classes * per_class

    def make(device: torch.device, seed: int) -> Inputs:
        boxes, scores = cases.rpn_like(n, seed=seed)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        labels = torch.arange(classes).repeat_interleave(per_class)[order]
        return boxes.to(device), scores.to(device), labels.to(device)

    return Case(
        op="batched_nms",
        shape=f"{classes}x{per_class}",
        dtype="float32",
        layout="",
        make=make,
        ours=lambda *inputs: fasterrcnn_ops.batched_nms(*inputs, threshold),
        theirs=lambda *inputs: torchvision.ops.batched_nms(*inputs, threshold),
        reference=lambda *inputs: reference_nms.batched_nms(*inputs, threshold),
        agree=same_indices,
        captured=lambda *inputs: fasterrcnn_ops.nms_padded(*inputs, iou_threshold=threshold, max_output=n),
        theirs_in_graph=False,
        pairs=classes * per_class * (per_class - 1) // 2,
        exact=True,
    )


# --- regions of interest ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Regions:
    """Shape of an RoI case: K RoIs on one C × H × W map that is ``stride`` times smaller than the image."""

    k: int
    channels: int
    height: int
    width: int
    stride: int
    bins: int
    largest_side: float = float("inf")  # of an RoI, in pixels of the image

    @property
    def shape(self) -> str:
        return f"{self.k}x{self.channels}x{self.bins}x{self.bins} from {self.height}x{self.width}"

    def rois(self, device: torch.device, seed: int) -> Tensor:
        """float32 [K, 5]."""
        boxes, _ = cases.rpn_like(self.k, seed=seed)
        scale = torch.tensor([self.width, self.height]) * self.stride / torch.tensor([IMAGE[1], IMAGE[0]])
        boxes = boxes * scale.repeat(2)
        boxes[:, 2:] = torch.minimum(boxes[:, 2:], boxes[:, :2] + self.largest_side)
        return torch.cat((boxes.new_zeros(self.k, 1), boxes), dim=1).to(device)

    def features(self, device: torch.device, seed: int, dtype: torch.dtype, layout: str) -> Tensor:
        generator = torch.Generator(device).manual_seed(seed)
        values = torch.randn(1, self.channels, self.height, self.width, device=device, generator=generator)
        return values.to(dtype=dtype, memory_format=FORMATS[layout])

    def gradient(self, device: torch.device, seed: int, layout: str) -> Tensor:
        generator = torch.Generator(device).manual_seed(seed + 1)
        values = torch.randn(self.k, self.channels, self.bins, self.bins, device=device, generator=generator)
        return values.to(memory_format=FORMATS[layout])


def roi_align_case(regions: Regions, ratio: int, aligned: bool, dtype: str, layout: str) -> Case:
    settings = (regions.bins, 1 / regions.stride, ratio, aligned)

    def make(device: torch.device, seed: int) -> Inputs:
        return regions.features(device, seed, DTYPES[dtype], layout), regions.rois(device, seed)

    def theirs(features: Tensor, rois: Tensor) -> Tensor:
        # Under autocast torchvision widens half features, and narrows the result: RoIs in half would miss their pixels.
        return torchvision.ops.roi_align(features.float(), rois, *settings).to(features.dtype)

    def expected(features: Tensor, rois: Tensor) -> Tensor:
        return reference_roi_align.roi_align(features.double(), rois.double(), *settings).to(features.dtype)

    # One rounding of the result apart, on samples of a normal distribution.
    tolerance = {"float32": (1e-5, 1e-4), "float16": (2e-3, 2e-3), "bfloat16": (1.6e-2, 1.6e-2)}[dtype]
    return Case(
        op="roi_align" if ratio > 0 else "roi_align adaptive",
        shape=regions.shape,
        dtype=dtype,
        layout=layout,
        make=make,
        ours=lambda features, rois: fasterrcnn_ops.roi_align(features, rois, *settings),
        theirs=theirs,
        reference=expected,
        agree=close_to(*tolerance),
    )


def roi_align_backward_case(regions: Regions, ratio: int, aligned: bool, layout: str) -> Case:
    scale, pooled = 1 / regions.stride, (regions.bins, regions.bins)
    size = (1, regions.channels, regions.height, regions.width)

    def make(device: torch.device, seed: int) -> Inputs:
        return regions.gradient(device, seed, layout), regions.rois(device, seed)

    def ours(grad: Tensor, rois: Tensor) -> Tensor:
        channels_last = layout == "NHWC"
        return torch.ops.fasterrcnn_ops.roi_align_backward(
            grad, rois, scale, *pooled, *size, ratio, aligned, channels_last
        )

    def expected(grad: Tensor, rois: Tensor) -> Tensor:
        features = torch.zeros(size, dtype=torch.float64, device=grad.device, requires_grad=True)
        result = reference_roi_align.roi_align(features, rois.double(), regions.bins, scale, ratio, aligned)
        return torch.autograd.grad(result, features, grad.double())[0].float()

    return Case(
        op="roi_align backward",
        shape=regions.shape,
        dtype="float32",
        layout=layout,
        make=make,
        ours=ours,
        theirs=lambda grad, rois: torch.ops.torchvision._roi_align_backward(
            grad, rois, scale, *pooled, *size, ratio, aligned
        ),
        reference=expected,
        agree=close_to(relative=1e-4, absolute=1e-3),  # sums of many terms, torchvision's in any order
    )


def roi_pool_case(regions: Regions, layout: str) -> Case:
    scale, pooled = 1 / regions.stride, (regions.bins, regions.bins)

    def make(device: torch.device, seed: int) -> Inputs:
        return regions.features(device, seed, torch.float32, layout), regions.rois(device, seed)

    return Case(
        op="roi_pool",
        shape=regions.shape,
        dtype="float32",
        layout=layout,
        make=make,
        # The operators rather than the functions: both give the argmax too.
        ours=lambda features, rois: torch.ops.fasterrcnn_ops.roi_pool_forward(features, rois, scale, *pooled)[0],
        theirs=lambda features, rois: torch.ops.torchvision.roi_pool(features, rois, scale, *pooled)[0],
        reference=lambda features, rois: reference_roi_pool.roi_pool(features, rois, regions.bins, scale),
        agree=all_equal,
        # int64 argmax beside every float of the result
        least_bytes=lambda inputs, result: size_of(inputs) + 3 * size_of(result),
    )


def roi_pool_backward_case(regions: Regions, layout: str) -> Case:
    scale, pooled = 1 / regions.stride, (regions.bins, regions.bins)
    size = (1, regions.channels, regions.height, regions.width)

    def make(device: torch.device, seed: int) -> Inputs:
        features, rois = regions.features(device, seed, torch.float32, layout), regions.rois(device, seed)
        argmax = torch.ops.fasterrcnn_ops.roi_pool_forward(features, rois, scale, *pooled)[1]
        return regions.gradient(device, seed, layout), rois, argmax, argmax.int().contiguous()  # torchvision's is int32

    def ours(grad: Tensor, rois: Tensor, argmax: Tensor, _: Tensor) -> Tensor:
        return torch.ops.fasterrcnn_ops.roi_pool_backward(grad, rois, argmax, scale, *pooled, *size, layout == "NHWC")

    def expected(grad: Tensor, rois: Tensor, argmax: Tensor, _: Tensor) -> Tensor:
        flat = torch.zeros(regions.channels, regions.height * regions.width + 1, dtype=torch.float64)
        places = torch.where(argmax < 0, flat.shape[1] - 1, argmax)  # empty bins into a column that is cut off
        rows = torch.arange(regions.channels)[None, :, None, None].expand_as(places)
        flat.index_put_((rows, places.cpu()), grad.double().cpu(), accumulate=True)
        return flat[:, :-1].reshape(size).float().to(grad.device)

    return Case(
        op="roi_pool backward",
        shape=regions.shape,
        dtype="float32",
        layout=layout,
        make=make,
        ours=ours,
        theirs=lambda grad, rois, _, argmax: torch.ops.torchvision._roi_pool_backward(
            grad, rois, argmax, scale, *pooled, *size
        ),
        reference=expected,
        agree=close_to(relative=1e-4, absolute=1e-3),
        least_bytes=lambda inputs, result: size_of(inputs[:3]) + size_of(result),
    )


# --- the list --------------------------------------------------------------------------------------------------------


def operator_cases(tiny: bool = False) -> list[Case]:
    """Every row that is measured, in the order of the table; ``tiny``: the same rows at sizes for a test on the CPU."""
    if tiny:
        pyramid = Regions(k=9, channels=8, height=20, width=33, stride=4, bins=3, largest_side=40)
        c4 = Regions(k=5, channels=6, height=10, width=14, stride=16, bins=4)
        vgg = Regions(k=7, channels=5, height=9, width=12, stride=16, bins=3)
    else:
        # Level P2 alone, with RoIs of the sizes a pyramid sends there.
        pyramid = Regions(k=1000, channels=256, height=200, width=336, stride=4, bins=7, largest_side=112)
        c4 = Regions(k=300, channels=1024, height=50, width=84, stride=16, bins=14)
        vgg = Regions(k=300, channels=512, height=50, width=84, stride=16, bins=7)
    found = [anchors_case(tiny), decode_case(50 if tiny else 268_569)]
    found += [nms_case(n) for n in ((20, 70, 200) if tiny else (1000, 2000, 6000, 12_000, 30_000, 100_000))]
    found += [batched_nms_case(*((4, 15) if tiny else (80, 1000)))]
    found += [roi_align_case(pyramid, 2, False, dtype, layout) for dtype in DTYPES for layout in FORMATS]
    found += [roi_align_backward_case(pyramid, 2, False, layout) for layout in FORMATS]
    found += [roi_align_case(c4, -1, True, "float32", layout) for layout in FORMATS]
    found += [roi_pool_case(vgg, layout) for layout in FORMATS]
    found += [roi_pool_backward_case(vgg, layout) for layout in FORMATS]
    return found
