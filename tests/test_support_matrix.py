"""docs/support.md is what tools/make_support_matrix.py finds, and that tool can find a no."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fasterrcnn_ops

TOOL = Path(__file__).resolve().parents[1] / "tools" / "make_support_matrix.py"


@pytest.fixture(scope="module")
def matrix():
    spec = importlib.util.spec_from_file_location(TOOL.stem, TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_document_is_what_is_found(matrix):
    found, written = matrix.document().splitlines(), matrix.DOCUMENT.read_text(encoding="utf-8").splitlines()
    for one, other in zip(found, written, strict=True):
        assert one == other, "run python tools/make_support_matrix.py and read the difference"


def test_every_operator_has_a_row(matrix):
    """Modules are their functions; cell anchors are computed from numbers; one function returns more of the same."""
    others = {"RoIAlign", "RoIPool", "MultiScaleRoIAlign", "cell_anchors", "select_detections_with_proposal"}
    assert {case.name for case in matrix.cases()} == set(fasterrcnn_ops.__all__) - others


def test_wrong_results_are_a_no(matrix):
    """A case whose function is a little off, or a constant, passes no check that compares."""
    (iou,) = (case for case in matrix.cases() if case.name == "box_iou")
    ours = fasterrcnn_ops.box_iou

    def off(op, first, second):
        return op(first, second) * (1.01 if op is ours else 1)

    def detached(op, first, second):
        return op(first.detach(), second.detach())

    assert matrix.cell(matrix.COLUMNS["fp32"], iou).text == "yes"
    assert matrix.cell(matrix.COLUMNS["fp32"], replace(iou, call=off)).text == "no"
    assert matrix.cell(matrix.autocast, replace(iou, call=off)).text == "no"
    assert matrix.cell(matrix.gradient, iou).text == "yes"
    assert matrix.cell(matrix.gradient, replace(iou, call=detached)).text == "no"
    half = replace(iou, call=lambda op, first, second: op(first, second.detach()))
    assert matrix.cell(matrix.gradient, half).text == "`boxes1`"


def test_failures_are_a_no(matrix):
    (nms,) = (case for case in matrix.cases() if case.name == "nms")
    assert matrix.cell(matrix.maps_over_entries, nms).text == "no"
    assert matrix.column(matrix.exports, [nms]) == ["yes"]
    data = replace(nms, call=lambda op, boxes, scores: op(boxes, scores, 0.5) if scores[0] > 0 else boxes)
    assert matrix.column(matrix.exports, [nms, data]) == ["yes", "no"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_column(matrix):
    """What the document says is there runs, with the reference's results."""
    for case in matrix.cases():
        assert matrix.cuda(case) != "no"
        inputs = [tensor.cuda() for tensor in matrix._inputs(case)]
        assert matrix._close(tuple(result.cpu() for result in case.run(*inputs)), case.expected(*matrix._inputs(case)))
