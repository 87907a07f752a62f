"""The examples in the docstrings of fasterrcnn_ops are true, and its functions chain into one compiled graph."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import torch

import fasterrcnn_ops

MODULES = [module.name for module in pkgutil.iter_modules(fasterrcnn_ops.__path__) if not module.name.startswith("_")]


@pytest.mark.parametrize("name", [name for name in MODULES if name not in ("torch_ops", "reference")])
def test_docstring_examples(name):
    module = importlib.import_module(f"fasterrcnn_ops.{name}")
    results = doctest.testmod(module, extraglobs={"torch": torch})
    assert results.failed == 0


def test_box_functions_compile_without_graph_breaks():
    """Anchors, decoding and overlap as a detector chains them, in one graph, with gradients."""

    def loss(deltas):
        cells = fasterrcnn_ops.cell_anchors(32, (0.5, 1.0), rule="classic")
        anchors = fasterrcnn_ops.grid_anchors(cells, (3, 3), 16)
        boxes = fasterrcnn_ops.decode_boxes(deltas, anchors, image_size=(50, 60))
        again = fasterrcnn_ops.decode_boxes(fasterrcnn_ops.encode_boxes(boxes + anchors, anchors), anchors)
        return (fasterrcnn_ops.box_iou(boxes, anchors) + fasterrcnn_ops.generalized_box_iou(again, anchors)).sum()

    deltas = (0.1 * torch.randn(18, 4)).requires_grad_()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(deltas), loss(deltas))
    (actual,) = torch.autograd.grad(compiled(deltas), deltas)
    (expected,) = torch.autograd.grad(loss(deltas), deltas)
    assert expected.isfinite().all()
    torch.testing.assert_close(actual, expected)
