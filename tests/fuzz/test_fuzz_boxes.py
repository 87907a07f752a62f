"""Random and hostile inputs for the kernels of anchors, box coding and IoU, under AddressSanitizer and UBSan."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(("stem", "rounds"), [("anchors", 4000), ("box_coder", 10000), ("box_iou", 2000)])
def test_kernel(run_fuzz, stem, rounds):
    run_fuzz(stem, rounds)
