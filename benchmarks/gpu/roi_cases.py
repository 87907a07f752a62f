"""Rows of the RoI operators on one map: K RoIs, C channels, a map of H × W pixels."""

from __future__ import annotations

from dataclasses import dataclass

import cases
import torch
from torch import Tensor

import fasterrcnn_ops
from fasterrcnn_ops.reference import roi_align as reference_roi_align
from fasterrcnn_ops.reference import roi_pool as reference_roi_pool

from .agreement import all_equal, close_to
from .case import DTYPES, FORMATS, IMAGE, Case, Inputs, size_of

try:
    import torchvision
except ImportError:  # cases can still be listed; the stage refuses to run without
    torchvision = None


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
