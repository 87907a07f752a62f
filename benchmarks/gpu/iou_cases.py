"""Rows of box_iou: all pairs of two sets of boxes, and their gradient."""

from __future__ import annotations

from collections.abc import Callable

import cases
import torch
from torch import Tensor

import fasterrcnn_ops
from fasterrcnn_ops.reference import boxes as reference_boxes

from .agreement import close_to
from .case import Case, Inputs, size_of

try:
    import torchvision
except ImportError:  # cases can still be listed; the stage refuses to run without
    torchvision = None


def box_iou_case(n: int, m: int) -> Case:
    def make(device: torch.device, seed: int) -> Inputs:
        return cases.rpn_like(n, seed=seed)[0].to(device), cases.rpn_like(m, seed=seed + 1)[0].to(device)

    return Case(
        op="box_iou",
        shape=f"{n}x{m}",
        dtype="float32",
        layout="",
        make=make,
        ours=fasterrcnn_ops.box_iou,
        theirs=lambda *boxes: torchvision.ops.box_iou(*boxes),
        reference=reference_boxes.box_iou,
        agree=close_to(relative=1e-6, absolute=1e-7),
        exact=True,
    )


def box_iou_gradient_case(n: int, m: int) -> Case:
    """Forward and backward, as a loss on the IoU of all pairs would take them."""

    def make(device: torch.device, seed: int) -> Inputs:
        grad = torch.randn(n, m, generator=torch.Generator().manual_seed(seed))
        return grad.to(device), *box_iou_case(n, m).make(device, seed)

    def gradients(box_iou: Callable[..., Tensor], grad: Tensor, *boxes: Tensor) -> tuple[Tensor, ...]:
        leaves = [tensor.detach().requires_grad_() for tensor in boxes]
        return torch.autograd.grad(box_iou(*leaves), leaves, grad)

    def without_autograd(grad: Tensor, *boxes: Tensor) -> tuple[Tensor, ...]:
        fasterrcnn_ops.box_iou(*boxes)
        return torch.ops.fasterrcnn_ops.box_iou_backward(grad, *boxes)

    return Case(
        op="box_iou with gradient",
        shape=f"{n}x{m}",
        dtype="float32",
        layout="",
        make=make,
        ours=lambda *inputs: gradients(fasterrcnn_ops.box_iou, *inputs),
        theirs=lambda *inputs: gradients(torchvision.ops.box_iou, *inputs),
        reference=lambda *inputs: gradients(reference_boxes.box_iou, *inputs),
        agree=close_to(relative=1e-4, absolute=1e-5),  # sums of many terms, in other orders
        captured=without_autograd,
        theirs_in_graph=False,  # autograd's own buffers
        least_bytes=lambda inputs, result: size_of(inputs) + size_of(result) + size_of(inputs[0]),  # and the IoUs
    )
