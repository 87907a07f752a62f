"""Rows of RoIAlign over a feature pyramid, forward and backward: K RoIs, C channels, one map a level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cases
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

import fasterrcnn_ops
from fasterrcnn_ops.reference import multi_scale_roi_align as reference

from .agreement import close_to
from .case import DTYPES, FORMATS, IMAGE, Case, Inputs, size_of

try:
    import torchvision
except ImportError:  # cases can still be listed; the stage refuses to run without
    torchvision = None

RATIO = 2  # samples a bin and axis
CANONICAL_SCALE, CANONICAL_LEVEL = 224, 4  # of both libraries
# One rounding of the result apart, on samples of a normal distribution; backward on sums of some.
TOLERANCES = {"float32": (1e-5, 1e-4), "bfloat16": (1.6e-2, 1.6e-2)}
BACKWARD_TOLERANCES = {"float32": (1e-4, 1e-3), "bfloat16": (1.6e-2, 3e-2)}


@dataclass(frozen=True)
class Pyramid:
    """Shape of a case: K RoIs of an image of ``height`` × ``width`` pixels, maps of C channels at ``strides``."""

    k: int
    channels: int
    bins: int
    height: int = IMAGE[0]
    width: int = IMAGE[1]
    strides: tuple[int, ...] = (4, 8, 16, 32)

    @property
    def shape(self) -> str:
        return f"{self.k}x{self.channels}x{self.bins}x{self.bins} from {len(self.strides)} levels"

    @property
    def scales(self) -> list[float]:
        return [1 / stride for stride in self.strides]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        return [(-(-self.height // stride), -(-self.width // stride)) for stride in self.strides]

    def boxes(self, device: torch.device, seed: int) -> Tensor:
        """float32 [K, 4]."""
        boxes, _ = cases.rpn_like(self.k, seed=seed)
        return (boxes * torch.tensor([self.width / IMAGE[1], self.height / IMAGE[0]]).repeat(2)).to(device)

    def maps(self, device: torch.device, seed: int, dtype: str, layout: str) -> list[Tensor]:
        """[1, C, H, W] a level."""
        generator = torch.Generator(device).manual_seed(seed)
        maps = [torch.randn(1, self.channels, *size, device=device, generator=generator) for size in self.sizes]
        return [values.to(dtype=DTYPES[dtype], memory_format=FORMATS[layout]) for values in maps]

    def gradient(self, device: torch.device, seed: int, dtype: str, layout: str) -> Tensor:
        """[K, C, bins, bins]."""
        generator = torch.Generator(device).manual_seed(seed + 1)
        values = torch.randn(self.k, self.channels, self.bins, self.bins, device=device, generator=generator)
        return values.to(dtype=DTYPES[dtype], memory_format=FORMATS[layout])

    def ours(self, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        return fasterrcnn_ops.multi_scale_roi_align(maps, [boxes], self.bins, self.scales, RATIO)

    def reference(self, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """In float64; float32 RoIs all the same, which choose the levels."""
        wide = [values.double() for values in maps]
        return reference.multi_scale_roi_align(wide, [boxes], self.bins, self.scales, RATIO).to(maps[0].dtype)

    def theirs(self) -> Callable[[Sequence[Tensor], Tensor], Tensor]:
        """torchvision's module. Half maps are widened and the result narrowed, as under its autocast."""
        names = [str(level) for level in range(len(self.strides))]
        module = torchvision.ops.MultiScaleRoIAlign(names, self.bins, RATIO) if torchvision else None

        def call(maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
            wide = {name: values.float() for name, values in zip(names, maps, strict=True)}
            return module(wide, [boxes], [(self.height, self.width)]).to(maps[0].dtype)

        return call


def multi_scale_roi_align_case(pyramid: Pyramid, dtype: str, layout: str) -> Case:
    def make(device: torch.device, seed: int) -> Inputs:
        return pyramid.boxes(device, seed), *pyramid.maps(device, seed, dtype, layout)

    theirs = pyramid.theirs()
    return Case(
        op="multi_scale_roi_align",
        shape=pyramid.shape,
        dtype=dtype,
        layout=layout,
        make=make,
        ours=lambda boxes, *maps: pyramid.ours(maps, boxes),
        theirs=lambda boxes, *maps: theirs(maps, boxes),
        reference=lambda boxes, *maps: pyramid.reference(maps, boxes),
        agree=close_to(*TOLERANCES[dtype]),
        theirs_in_graph=False,  # reads back how many RoIs each level has
    )


class _Backward:
    """The gradient of every level, of a graph that one forward call left; made when a gradient is first seen.

    Args:
        pyramid: Its shapes.
        forward: (maps, boxes) → pooled features.
    """

    def __init__(
        self, pyramid: Pyramid, forward: Callable[[Sequence[Tensor], Tensor], Tensor], dtype: str, layout: str
    ) -> None:
        self.pyramid, self.forward, self.dtype, self.layout = pyramid, forward, dtype, layout
        self._graphs = WeakTensorKeyDictionary()  # for as long as the inputs live

    def prepare(self, grad: Tensor, boxes: Tensor) -> None:
        maps = self.pyramid.maps(grad.device, 0, self.dtype, self.layout)  # their values do not matter
        leaves = [values.requires_grad_() for values in maps]
        pooled = self.forward(leaves, boxes)
        self._graphs[grad] = leaves, pooled, torch.empty_like(pooled).copy_(grad)  # in the layout of each side

    def __call__(self, grad: Tensor, boxes: Tensor) -> list[Tensor]:
        if grad not in self._graphs:
            self.prepare(grad, boxes)
        leaves, pooled, its_grad = self._graphs[grad]
        return list(torch.autograd.grad(pooled, leaves, its_grad, retain_graph=True))


def multi_scale_roi_align_backward_case(pyramid: Pyramid, dtype: str, layout: str) -> Case:
    ours = _Backward(pyramid, pyramid.ours, dtype, layout)
    theirs = _Backward(pyramid, pyramid.theirs(), dtype, layout)

    def make(device: torch.device, seed: int) -> Inputs:
        grad, boxes = pyramid.gradient(device, seed, dtype, layout), pyramid.boxes(device, seed)
        ours.prepare(grad, boxes)
        if torchvision is not None:
            theirs.prepare(grad, boxes)
        return grad, boxes

    def captured(grad: Tensor, boxes: Tensor) -> list[Tensor]:
        """The operator itself: autograd would run on the stream of the forward call, outside of the graph."""
        rois = torch.cat((torch.zeros_like(boxes[:, :1]), boxes), dim=1)
        heights, widths = zip(*pyramid.sizes, strict=True)
        pooled, size = (pyramid.bins, pyramid.bins), (1, pyramid.channels)
        return torch.ops.fasterrcnn_ops.multi_scale_roi_align_backward(
            *(grad, rois, pyramid.scales, *pooled, heights, widths, *size, RATIO, False),
            *(CANONICAL_SCALE, CANONICAL_LEVEL, layout == "NHWC"),
        )

    def expected(grad: Tensor, boxes: Tensor) -> list[Tensor]:
        sizes = [(1, pyramid.channels, *size) for size in pyramid.sizes]
        leaves = [torch.zeros(size, dtype=torch.float64, device=grad.device, requires_grad=True) for size in sizes]
        gradients = torch.autograd.grad(pyramid.reference(leaves, boxes), leaves, grad.double())
        return [gradient.to(grad.dtype) for gradient in gradients]

    return Case(
        op="multi_scale_roi_align backward",
        shape=pyramid.shape,
        dtype=dtype,
        layout=layout,
        make=make,
        ours=ours,
        theirs=theirs,
        reference=expected,
        agree=close_to(*BACKWARD_TOLERANCES[dtype]),
        captured=captured,
        theirs_in_graph=False,  # masks again
        least_bytes=lambda inputs, result: size_of(inputs) + size_of(result),
    )
