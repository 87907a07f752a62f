"""docs/support.md: what every operator works with, found out by trying.

    python tools/make_support_matrix.py            rewrites docs/support.md
    python tools/make_support_matrix.py --check    only says whether it is up to date

Every cell is the outcome of a small run, here on the CPU; none is written by hand. tests/test_support_matrix.py makes
the table again and requires that the file equals it.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import fasterrcnn_ops
from fasterrcnn_ops import reference

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "support.md"
YES, NO, NONE = "yes", "no", "–"
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 1e-5, torch.float64: 1e-12}


@dataclass(frozen=True)
class Case:
    """A small call of an operator.

    Attributes:
        name: of the public function.
        operators: what it calls in ``torch.ops.fasterrcnn_ops``, its backward included; nothing if it is composed of
            torch operations everywhere.
        tensors: name -> float64 argument.
        call: takes the function (ours or the reference) and the tensors.
        maps: names of the tensors that are feature maps and so have a memory format.
        dtype: of the tensors, if they are not numbers of any dtype.
    """

    name: str
    operators: tuple[str, ...]
    tensors: dict[str, Tensor]
    call: Callable[..., Any]
    maps: tuple[str, ...] = ()
    dtype: torch.dtype | None = None

    def run(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return _flat(self.call(getattr(fasterrcnn_ops, self.name), *tensors))

    def expected(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        module = _reference_of(self.name)
        return _flat(self.call(getattr(module, self.name), *tensors))


def _flat(result: Any) -> tuple[Tensor, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def _reference_of(name: str) -> Any:
    return importlib.import_module(f"{reference.__name__}.{fasterrcnn_ops._MODULE_OF[name]}")


# --- the calls -------------------------------------------------------------------------------------------------------


def cases() -> list[Case]:
    generator = torch.Generator().manual_seed(0)

    def boxes(count: int) -> Tensor:  # multiples of 1/4 below 64, so that they are the same numbers in every dtype
        corner = torch.randint(0, 24, (count, 2), generator=generator)
        return torch.cat((corner, corner + torch.randint(4, 30, (count, 2), generator=generator)), dim=1).double()

    def values(*size: int) -> Tensor:  # all different, and the same in every dtype
        count = torch.Size(size).numel()
        return torch.randperm(count, generator=generator).double().reshape(size) / 64 - 1

    rois = torch.cat((torch.tensor([[0.0], [1.0], [1.0]]), boxes(3)), dim=1).double()
    suppressed = {"boxes": boxes(12), "scores": values(12)}
    pairs = {"boxes1": boxes(3), "boxes2": boxes(2) + 0.25}
    pyramid = {"fine": values(2, 2, 8, 8), "coarse": values(2, 2, 4, 4), "rois": rois}
    cells = torch.tensor([[-8.0, -8.0, 8.0, 8.0], [-12.0, -8.0, 12.0, 8.0]], dtype=torch.float64)
    rpn = {"objectness": values(2, 2, 4, 4), "deltas": values(2, 8, 4, 4) / 4, "cell_anchors": cells}
    head = {"logits": values(2, 4, 3), "deltas": values(2, 4, 12) / 8, "proposals": boxes(8).reshape(2, 4, 4)}
    drawn = {"positive": values(2, 12) > -0.9, "negative": values(2, 12) > -0.9}
    ids = torch.tensor([0, 1, 2] * 4)
    size = (40.0, 48.0)
    sizes, count = torch.tensor([[40, 48], [44, 44]]), torch.tensor([4, 3])

    def maps_and_rois():
        return {"input": values(2, 2, 6, 7), "rois": rois}

    def propose(op, objectness, deltas, cells):
        options = {"pre_nms_top_n": 20, "post_nms_top_n": 6, "nms_threshold": 0.6}
        return op([objectness], [deltas], [cells], [16], sizes.to(deltas.device), **options)

    def select(op, logits, deltas, proposals):
        options = {"score_threshold": 0.1, "nms_threshold": 0.5, "max_detections": 5}
        return op(logits, deltas, proposals, count.to(deltas.device), sizes.to(deltas.device), **options)

    def sample(op, positive, negative):
        return op(positive, negative, count.to(positive.device), num_samples=6, max_positive=2)

    def pool_pyramid(op, fine, coarse, rois):
        options = {"canonical_scale": 16, "canonical_level": 3}
        return op([fine, coarse], rois, 2, [1 / 8, 1 / 16], 2, **options)

    roi_align, roi_pool = ("roi_align_forward", "roi_align_backward"), ("roi_pool_forward", "roi_pool_backward")
    pyramid_operators = ("multi_scale_roi_align_forward", "multi_scale_roi_align_backward")
    match = partial(_call, high_threshold=0.5, low_threshold=0.25)
    return [
        Case("grid_anchors", ("grid_anchors",), {"cell_anchors": cells}, lambda op, c: op(c, (2, 3), 16)),
        Case("encode_boxes", ("encode_boxes",), {"boxes": boxes(4), "anchors": boxes(4)}, _call),
        Case(
            "decode_boxes",
            ("decode_boxes",),
            {"deltas": values(4, 8) / 2, "anchors": boxes(4)},
            lambda op, d, a: op(d, a, image_size=size),
        ),
        Case("box_iou", ("box_iou", "box_iou_backward"), pairs, _call),
        Case("match_boxes", ("match_boxes",), {"targets": boxes(2), "boxes": boxes(9)}, match),
        Case("sample_candidates", ("sample_candidates",), drawn, sample, dtype=torch.bool),
        Case("nms", ("nms",), suppressed, lambda op, b, s: op(b, s, 0.3)),
        Case("batched_nms", ("batched_nms",), suppressed, lambda op, b, s: op(b, s, ids.to(b.device), 0.2)),
        Case(
            "nms_padded",
            ("nms_padded",),
            suppressed,
            lambda op, b, s: op(b, s, ids.to(b.device), iou_threshold=0.2, max_output=20),
        ),
        Case("soft_nms", ("soft_nms",), suppressed, lambda op, b, s: op(b, s, min_score=-0.5)),
        Case("generate_proposals", ("generate_proposals",), rpn, propose, ("objectness", "deltas")),
        Case("select_detections", ("select_detections",), head, select),
        Case("roi_align", roi_align, maps_and_rois(), lambda op, x, r: op(x, r, 2, 1 / 8, 2, True), ("input",)),
        Case("multi_scale_roi_align", pyramid_operators, pyramid, pool_pyramid, ("fine", "coarse")),
        Case("roi_pool", roi_pool, maps_and_rois(), lambda op, x, r: op(x, r, 2, 1 / 8), ("input",)),
        Case("generalized_box_iou", (), pairs, _call),
        Case("distance_box_iou", (), pairs, _call),
        Case("complete_box_iou", (), pairs, _call),
        Case("box_area", (), {"boxes": boxes(4)}, _call),
        Case("box_convert", (), {"boxes": boxes(4)}, lambda op, b: op(b, "xyxy", "cxcywh")),
        Case("clip_boxes_to_image", (), {"boxes": boxes(4)}, lambda op, b: op(b, size)),
        Case("remove_small_boxes", (), {"boxes": boxes(6)}, lambda op, b: op(b, 12.0)),
    ]


def _call(op, *tensors, **options):
    return op(*tensors, **options)


# --- one check for each column ---------------------------------------------------------------------------------------


def _close(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], *, exact: bool = False) -> bool:
    """Shapes and values agree; indices and counts exactly, floats to a few roundings of what was found."""
    for one, other in zip(found, expected, strict=True):
        slack = 0.0 if exact else TOLERANCE.get(one.dtype, 0.0)
        if one.shape != other.shape or not torch.allclose(one.double(), other.double(), slack, slack, equal_nan=True):
            return False
    return len(found) > 0


def _inputs(case: Case, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [tensor.to(case.dtype or dtype) for tensor in case.tensors.values()]


def works_with(case: Case, dtype: torch.dtype) -> bool | None:
    if case.dtype is not None:
        return None
    inputs = _inputs(case, dtype)
    return _close(case.run(*inputs), case.expected(*inputs))


def takes_strided(case: Case) -> bool:
    """Tensors of which every second element of a larger one belongs to the argument."""
    inputs = _inputs(case)
    strided = []
    for tensor in inputs:
        view = tensor.new_zeros([2 * side for side in tensor.shape])[(slice(None, None, 2),) * tensor.dim()]
        strided.append(view.copy_(tensor))
    return _close(case.run(*strided), case.run(*inputs), exact=True)


def takes_channels_last(case: Case) -> bool | None:
    if not case.maps:
        return None
    inputs = _inputs(case)
    maps = [
        tensor.to(memory_format=torch.channels_last) if name in case.maps else tensor
        for name, tensor in zip(case.tensors, inputs, strict=True)
    ]
    return _close(case.run(*maps), case.run(*inputs), exact=True)


def gradient(case: Case) -> str:
    """The tensors whose first and second derivatives agree with finite differences."""
    if not any(result.is_floating_point() for result in case.run(*_inputs(case))):
        return NONE
    names = [name for name in case.tensors if _differentiable(case, name)]
    return YES if len(names) == len(case.tensors) else ", ".join(f"`{name}`" for name in names) or NO


def _differentiable(case: Case, name: str) -> bool:
    function, leaf = _as_function_of(case, name)
    result = function(leaf.requires_grad_())
    if not result.requires_grad or torch.autograd.grad(result.sum(), leaf, allow_unused=True)[0] is None:
        return False
    if case.name == "complete_box_iou":  # its source takes a part of the formula for a constant, differences do not
        expected, other = _as_function_of(case, name, case.expected)
        return torch.allclose(_gradient_of(function, leaf), _gradient_of(expected, other))
    checks = (torch.autograd.gradcheck, torch.autograd.gradgradcheck)
    return all(check(function, (leaf,), fast_mode=True) for check in checks)


def _gradient_of(function: Callable[[Tensor], Tensor], leaf: Tensor) -> Tensor:
    return torch.autograd.grad(function(leaf.requires_grad_()).square().sum(), leaf)[0]


def _as_function_of(case: Case, name: str, run=None) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The case, or ``run`` instead, as a function of one tensor; and that tensor."""
    run = run or case.run
    inputs = dict(zip(case.tensors, _inputs(case, torch.float64), strict=True))

    def function(leaf: Tensor) -> Tensor:
        results = run(*(inputs | {name: leaf}).values())
        return next(result for result in results if result.is_floating_point())

    return function, inputs[name].clone()


def functional_gradient(case: Case) -> bool | None:
    """torch.func.grad gives what backward() gives."""
    names = [name for name in case.tensors if _differentiable(case, name)] if gradient(case) != NONE else []
    if not names:
        return None
    for name in names:
        function, leaf = _as_function_of(case, name)
        found = torch.func.grad(lambda value, function=function: function(value).square().sum())(leaf)
        if not torch.allclose(found, _gradient_of(function, leaf)):
            return False
    return True


def autocast(case: Case) -> bool | None:
    """Beside float32 tensors the first one is half, as a layer leaves it: the result is that of its float32 values."""
    if case.dtype is not None:
        return None
    first, *others = _inputs(case)
    half = first.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = case.run(half, *others)
    return _close(found, case.expected(half.float(), *others))


class AllAtOnce(torch.nn.Module):
    """Several cases as one model: tracing them together takes a fraction of the time."""

    def __init__(self, together: list[Case]) -> None:
        super().__init__()
        self.together = together

    def forward(self, inputs: list[list[Tensor]]) -> list[tuple[Tensor, ...]]:
        return [case.run(*tensors) for case, tensors in zip(self.together, inputs, strict=True)]


def compiles(*together: Case) -> bool:
    inputs = [_inputs(case) for case in together]
    torch._dynamo.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        results = torch.compile(AllAtOnce(list(together)), fullgraph=True, backend="aot_eager")(inputs)
    return _as_called(together, inputs, results)


def exports(*together: Case) -> bool:
    inputs = [_inputs(case) for case in together]
    program = torch.export.export(AllAtOnce(list(together)), (inputs,), strict=True)
    return _as_called(together, inputs, program.module()(inputs))


def _as_called(together: tuple[Case, ...], inputs: list[list[Tensor]], results: list) -> bool:
    return all(
        _close(tuple(found), case.run(*tensors), exact=True)
        for case, tensors, found in zip(together, inputs, results, strict=True)
    )


def maps_over_entries(case: Case) -> bool:
    """torch.vmap over two entries that differ gives what the calls one by one give."""
    entries = [_inputs(case), [tensor.flip(0) if tensor.dim() == 2 else tensor * 0.5 for tensor in _inputs(case)]]
    found = torch.vmap(case.run)(*(torch.stack(pair) for pair in zip(*entries, strict=True)))
    results = zip(*(case.run(*inputs) for inputs in entries), strict=True)
    return _close(found, tuple(torch.stack(pair) for pair in results), exact=True)


def cuda(case: Case) -> str:
    """What a build with CUDA runs there: from the sources, not from a run."""
    sources = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "csrc").glob("*/*_cuda.cu")))
    kernels = set(re.findall(r'm\.impl\("(\w+)"', sources))
    if not case.operators:
        return "torch"
    return "kernel" if case.operators[0] in kernels else NO


COLUMNS: dict[str, Callable[[Case], bool | str | None]] = {
    **{name: partial(works_with, dtype=dtype) for name, dtype in DTYPES.items()},
    "integer": partial(works_with, dtype=torch.int64),
    "strided": takes_strided,
    "channels last": takes_channels_last,
    "CUDA": cuda,
    "gradient": gradient,
    "`torch.func`": functional_gradient,
    "autocast": autocast,
    "compile": compiles,
    "export": exports,
    "vmap": maps_over_entries,
}


def cell(check: Callable[[Case], bool | str | None], case: Case) -> SimpleNamespace:
    """``text`` of the cell, and ``error``, why it is a no."""
    try:
        found = check(case)
    except Exception as error:  # whatever an operator or torch raises: it does not work
        return SimpleNamespace(text=NO, error=error)
    return SimpleNamespace(text={True: YES, False: NO, None: NONE}.get(found, found), error=None)


TEXT = """# What works with what

Made by `python tools/make_support_matrix.py`, which runs every operator on the CPU in each of these ways and compares
the result with the reference, with finite differences, or with plain calls. A test makes the table again and requires
that it equals this file.

{table}

- **fp16 … integer**: all tensors of that dtype (int64 for *integer*). Result of the reference. – for masks.
- **strided**: no tensor is contiguous in any dimension. **channels last**: of the maps; – without maps. Same
  result.
- **CUDA**: *kernel*: a kernel of its own. *torch*: torch operations on every device. **Not run here**: this table was
  made without a card.
- **gradient**: the tensors whose first and second derivatives (reverse mode) agree with finite differences; *yes*: all.
  – where the result is indices. (That of `complete_box_iou` agrees with the reference: α counts as a constant.)
- **`torch.func`**: `torch.func.grad` gives what `backward()` gives. Inside a compiled function it raises for operators
  that have a kernel. These have no forward mode: `torch.func.jvp` raises, and dual numbers of
  `torch.autograd.forward_ad` silently lose their tangents.
- **autocast**: the first tensor is bfloat16, the others are float32: the result is that of float32 tensors, features
  keep their dtype.
- **compile**: `torch.compile(fullgraph=True)`; where the size of the result depends on data, with
  `torch._dynamo.config.capture_dynamic_output_shape_ops`. **export**: `torch.export.export(strict=True)`.
- **vmap**: `torch.vmap` over all tensors gives what one call an entry gives. `roi_align`, `encode_boxes` and
  `decode_boxes` make one call of all entries; the other operators are called once for each. Where the size of the
  result depends on data there is none, and the message says so.
"""


def column(check: Callable[..., bool | str | None], of: list[Case]) -> list[str]:
    """The cells of a column; what can be tried on all operators at once is tried one by one only if that fails."""
    if check in (compiles, exports) and cell(partial(check, *of[1:]), of[0]).text == YES:
        return [YES] * len(of)
    return [cell(check, case).text for case in of]


def table() -> str:
    of = cases()
    columns = [[f"`{case.name}`" for case in of], *(column(check, of) for check in COLUMNS.values())]
    rows = [["operator", *COLUMNS], ["---"] * len(columns), *zip(*columns, strict=True)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def document() -> str:
    return TEXT.format(table=table())


def main() -> int:
    made = document()
    if "--check" in sys.argv[1:]:
        same = DOCUMENT.exists() and DOCUMENT.read_text(encoding="utf-8") == made
        print(f"docs/{DOCUMENT.name} is {'up to date' if same else 'not what was found now'}")
        return 0 if same else 1
    DOCUMENT.write_text(made, encoding="utf-8")
    print(f"wrote docs/{DOCUMENT.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
