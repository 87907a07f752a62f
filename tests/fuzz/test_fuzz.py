"""Random and hostile inputs for every CPU kernel, under AddressSanitizer and UBSan."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("stem", "rounds"), [("anchors", 4000), ("box_coder", 10000), ("box_iou", 2000), ("nms", 6000)]
)
def test_kernel(run_fuzz, stem, rounds):
    run_fuzz(stem, rounds)
