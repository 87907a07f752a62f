"""Random and hostile inputs for every CPU kernel, under AddressSanitizer and UBSan."""

from __future__ import annotations

import pytest

from fasterrcnn_ops import _library

# Kernels that exist once per CPU level. Those of RoIs are compared with the portable kernel, bit for bit.
LEVEL_KERNELS = [
    ("anchors", 4000),
    ("box_coder", 10000),
    ("box_iou", 2000),
    ("detections", 6000),
    ("match_boxes", 4000),
    ("nms", 3000),
    ("proposals", 6000),
    ("roi_align_levels", 2000),
    ("roi_pool_levels", 2000),
    ("soft_nms", 4000),
]
PORTABLE_KERNELS = [("roi_align", 6000), ("roi_pool", 6000), ("sampling", 600)]

# Compiling under the sanitizers takes most of the time: the level in use here, and the others as long tests.
*LOWER, HIGHEST = _library.cpu_levels()
LEVELS = [*(pytest.param(level, marks=pytest.mark.slow) for level in LOWER), HIGHEST]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("stem", "rounds"), LEVEL_KERNELS)
def test_level_kernel(run_fuzz, stem, rounds, level):
    run_fuzz(stem, rounds, level)


@pytest.mark.parametrize(("stem", "rounds"), PORTABLE_KERNELS)
def test_portable_kernel(run_fuzz, stem, rounds):
    run_fuzz(stem, rounds)
