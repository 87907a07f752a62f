"""Random and hostile inputs for every CPU kernel, under AddressSanitizer and UBSan."""

from __future__ import annotations

import pytest

from fasterrcnn_ops import _library

# Kernels that exist once per CPU level, at each level this machine can run.
LEVEL_KERNELS = [
    ("anchors", 4000),
    ("box_coder", 10000),
    ("box_iou", 2000),
    ("detections", 6000),
    ("match_boxes", 4000),
    ("nms", 6000),
    ("proposals", 6000),
    ("soft_nms", 4000),
]


@pytest.mark.parametrize("level", _library.cpu_levels())
@pytest.mark.parametrize(("stem", "rounds"), LEVEL_KERNELS)
def test_level_kernel(run_fuzz, stem, rounds, level):
    run_fuzz(stem, rounds, level)
