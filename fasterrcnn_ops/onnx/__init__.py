"""The operators of this package in terms of standard ONNX operators, for ``torch.onnx.export``.

``translations()`` is the table that exporter takes. A model exported with it runs in a plain ONNX Runtime, without this
package::

    program = torch.onnx.export(model, args, dynamo=True, opset_version=18,
                                custom_translation_table=fasterrcnn_ops.onnx.translations())

:func:`fasterrcnn.export.to_onnx` does just that with a detector. docs/deployment/onnx.md says where results may differ.
"""

from __future__ import annotations

from collections.abc import Callable

OPSET = 18  # the version of the standard operators that the translations are made of

_MODULE_OF = {
    "grid_anchors": "boxes",
    "decode_boxes": "boxes",
    "box_iou": "boxes",
    "nms": "nms",
    "batched_nms": "nms",
    "nms_padded": "nms",
    "roi_align_forward": "rois",
    "roi_pool_forward": "rois",
    "multi_scale_roi_align_forward": "rois",
    "generate_proposals": "proposals",
    "select_detections": "detections",
}


def translations() -> dict[Callable, Callable]:
    """Operator → function that records it as ONNX nodes, for ``torch.onnx.export(custom_translation_table=…)``.

    Covered is what detection needs; the operators of training have no translation.

    Raises:
        ImportError: The ONNX packages are missing; the message says what to install.
    """
    import importlib

    import torch

    import fasterrcnn_ops.torch_ops  # noqa: F401  (registers the operators)

    try:
        import onnx_ir  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f'export to ONNX needs the packages onnx and onnxscript ({error}): pip install "fasterrcnn-ops[onnx]"'
        ) from error
    table = {}
    for name, module in _MODULE_OF.items():
        operator = getattr(torch.ops.fasterrcnn_ops, name).default
        table[operator] = getattr(importlib.import_module(f"fasterrcnn_ops.onnx.{module}"), name)
    return table
