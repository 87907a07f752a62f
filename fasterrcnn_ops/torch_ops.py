"""Registers every operator with torch: schemas and kernels, fake kernels, autograd.

Import it where operators are used by name only, as an exported program does: ``import fasterrcnn_ops.torch_ops``.
"""

import fasterrcnn_ops.anchors
import fasterrcnn_ops.box_coder
import fasterrcnn_ops.boxes
import fasterrcnn_ops.detections
import fasterrcnn_ops.matching
import fasterrcnn_ops.multi_scale_roi_align
import fasterrcnn_ops.nms
import fasterrcnn_ops.proposals
import fasterrcnn_ops.roi_align
import fasterrcnn_ops.roi_pool
import fasterrcnn_ops.sampling
import fasterrcnn_ops.soft_nms  # noqa: F401
