"""A detector as a file: ``to_onnx`` for ONNX Runtime, which needs nothing of ours; ``to_pt2`` for torch.export.load.

Exported is :meth:`~fasterrcnn.model.TwoStageDetector.forward_padded` for any number of images of any size: the way from
pixels to detections, NMS included. Resizing images to the working size stays outside; its rules travel in the file, see
:func:`description`.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from fasterrcnn.image_batch import SMALLEST_SIDE
from fasterrcnn.model import TwoStageDetector, evaluating
from fasterrcnn.padded import PaddedDetector

INPUTS = ("images", "image_sizes", "scales")
OUTPUTS = ("boxes", "labels", "scores", "count")
KEY = "fasterrcnn"  # under which a file keeps the description


def to_onnx(model: TwoStageDetector, path: str | Path) -> None:
    """Writes a detector as ONNX, of standard operators alone (opset 18).

    Inputs are ``images`` float32[B, 3, H, W] (RGB 0–1, at the working size, padded at the right and the bottom),
    ``image_sizes`` int64[B, 2] (height, width of each without padding) and, in the classic family alone, whose smallest
    proposal is given in pixels of the original image, ``scales`` float64[B], the resize factors. Outputs are ``boxes``
    float32[B, D, 4] in pixels of ``images``, ``labels`` int64[B, D], ``scores`` float32[B, D] and ``count`` int64[B].
    B, H and W are free, H and W from 32 pixels on.

    Args:
        model: Of any named system; stays in the mode it is in.
        path: File to write; weights beyond 2 GB go to ``<path>.data`` beside it.

    Raises:
        ImportError: The ONNX packages are missing; the message says what to install.
        ValueError: The detector has bfloat16 parameters, or a negative NMS threshold: these operators take neither.

    Note:
        In ONNX Runtime boxes and scores agree with ``forward_padded`` to 1e-3; docs/deployment/onnx.md has the cases in
        which they may not.
    """
    from fasterrcnn_ops.onnx import OPSET, translations

    table = translations()
    if any(parameter.dtype == torch.bfloat16 for parameter in model.parameters()):
        raise ValueError("ONNX's Conv of opset 18 does not take bfloat16: export the detector in float32")
    for layer in (model.rpn.proposal_layer, model.detection_layer):
        if not layer.nms_threshold >= 0:
            raise ValueError(f"ONNX takes no negative NMS thresholds, the detector has {layer.nms_threshold}")
    program = exported_program(model)
    with _quiet():
        onnx_program = torch.onnx.export(
            program,
            input_names=INPUTS[: len(program.graph_signature.user_inputs)],
            output_names=OUTPUTS,
            opset_version=OPSET,
            dynamo=True,
            custom_translation_table=table,
            verbose=False,
        )
    onnx_program.model.metadata_props[KEY] = json.dumps(description(model))
    onnx_program.save(path)


def to_pt2(model: TwoStageDetector, path: str | Path) -> None:
    """Writes a detector as a program of ``torch.export``.

    ``torch.export.load(path).module()`` takes and gives what :func:`to_onnx` describes, on the device the model was on.
    Where it is loaded, ``import fasterrcnn_ops.torch_ops`` first: the program calls our operators.

    Args:
        model: Of any named system; stays in the mode it is in.
        path: File to write, ``.pt2``.
    """
    extra_files = {f"{KEY}.json": json.dumps(description(model))}
    torch.export.save(exported_program(model), path, extra_files=extra_files)


def exported_program(model: TwoStageDetector) -> ExportedProgram:
    """``forward_padded`` as a program with a free number of images of free size; see :func:`to_onnx`."""
    device = model.device
    images = torch.zeros(2, 3, 4 * SMALLEST_SIDE, 5 * SMALLEST_SIDE, device=device)
    image_sizes = torch.tensor([[4 * SMALLEST_SIDE, 5 * SMALLEST_SIDE]] * 2, device=device)
    arguments: tuple[Any, ...] = (images, image_sizes)
    if takes_scales(model):
        arguments = (*arguments, torch.ones(2, dtype=torch.float64, device=device))
    shapes = PaddedDetector.dynamic_shapes(scales=takes_scales(model))
    with evaluating(model), torch.no_grad():
        return torch.export.export(PaddedDetector(model), arguments, dynamic_shapes=shapes, strict=False)


def takes_scales(model: TwoStageDetector) -> bool:
    """Whether the resize factors matter: where proposals have a smallest side in pixels of the original image."""
    layer = model.rpn.proposal_layer
    return layer.scale_min_size and layer.min_size > 0


def description(model: TwoStageDetector) -> dict[str, Any]:
    """What a file says about the detector in it.

    Returns:
        ``system`` and ``class_names`` (index 0 is label 1; None where unknown), and how images are brought to the
        working size: ``min_size`` and ``max_size`` of :func:`fasterrcnn.image_batch.resized_size`, or ``fixed_size``
        (height, width).
    """
    batcher = model.batcher
    return {
        "system": model.system,
        "class_names": None if model.class_names is None else list(model.class_names),
        "min_size": batcher.min_size,
        "max_size": batcher.max_size,
        "fixed_size": None if batcher.fixed_size is None else list(batcher.fixed_size),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes about packages that are not there and about its own internals."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)
