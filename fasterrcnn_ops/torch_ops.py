"""Registers every operator with torch: schemas and kernels, fake kernels, autograd, autocast.

Import it where operators are used by name only, as an exported program does: ``import fasterrcnn_ops.torch_ops``.
"""

import importlib
import importlib.util

for _room in ("anchors", "box_coder", "boxes", "nms", "roi_align", "roi_pool"):
    if importlib.util.find_spec(f"fasterrcnn_ops.{_room}"):
        importlib.import_module(f"fasterrcnn_ops.{_room}")
