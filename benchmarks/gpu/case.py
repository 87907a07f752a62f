"""What a row of the operator table is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cases
import torch
from torch import Tensor

IMAGE = (cases.IMAGE_HEIGHT, cases.IMAGE_WIDTH)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
Inputs = tuple[Tensor, ...]


def tensors_of(result: Any) -> list[Tensor]:
    """A tensor, or those of a tuple or list, at any depth."""
    return [result] if isinstance(result, Tensor) else [tensor for part in result for tensor in tensors_of(part)]


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
        ours, theirs, reference: called with the inputs. ``theirs`` returns what ours returns, up to ``agree``; None
            where torchvision has nothing of the kind: then the reference says what is right, and nothing rivals.
        agree: ``agree(found, expected)`` → how well they match, in words; raises AssertionError if not well enough.
        captured: the call of ours that a graph can hold (a fixed-capacity form, where ``ours`` reads back).
        ours_in_graph, theirs_in_graph: whether the call can be captured.
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
    theirs: Callable[..., Any] | None
    reference: Callable[..., Any]
    agree: Callable[[Any, Any], str]
    captured: Callable[..., Any] | None = None
    ours_in_graph: bool = True
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
