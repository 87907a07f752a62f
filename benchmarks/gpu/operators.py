"""The rows of the operator table, in their order.

Every case also exists at a tiny size, at which tests run it on the CPU.
"""

from __future__ import annotations

from .box_cases import anchors_case, batched_nms_case, decode_case, match_boxes_case, nms_case, soft_nms_case
from .case import DTYPES, FORMATS, Case
from .iou_cases import box_iou_case, box_iou_gradient_case
from .pyramid_cases import Pyramid, multi_scale_roi_align_backward_case, multi_scale_roi_align_case
from .roi_cases import Regions, roi_align_backward_case, roi_align_case, roi_pool_backward_case, roi_pool_case
from .sampling_cases import sample_candidates_case
from .stage_cases import fpn_proposals_case, select_detections_case, single_map_proposals_case


def operator_cases(tiny: bool = False) -> list[Case]:
    """Every row that is measured, in the order of the table; ``tiny``: the same rows at sizes for a test on the CPU."""
    if tiny:
        pyramid = Regions(k=9, channels=8, height=20, width=33, stride=4, bins=3, largest_side=40)
        c4 = Regions(k=5, channels=6, height=10, width=14, stride=16, bins=4)
        vgg = Regions(k=7, channels=5, height=9, width=12, stride=16, bins=3)
    else:
        # Level P2 alone, with RoIs of the sizes a pyramid sends there.
        pyramid = Regions(k=1000, channels=256, height=200, width=336, stride=4, bins=7, largest_side=112)
        c4 = Regions(k=300, channels=1024, height=50, width=84, stride=16, bins=14)
        vgg = Regions(k=300, channels=512, height=50, width=84, stride=16, bins=7)
    levels = Pyramid(9, 8, 3, 80, 132, (4, 8)) if tiny else Pyramid(1000, 256, 7)
    found = [anchors_case(tiny), decode_case(50 if tiny else 268_569)]
    found += [box_iou_case(*((9, 70) if tiny else (2000, 2000)))]
    found += [box_iou_gradient_case(*((9, 70) if tiny else (500, 500)))]
    found += [nms_case(n) for n in ((20, 70, 200) if tiny else (1000, 2000, 6000, 12_000, 30_000, 100_000))]
    found += [batched_nms_case(*((4, 15) if tiny else (80, 1000)))]
    found += [soft_nms_case(30 if tiny else 1000)]
    found += [match_boxes_case(*((5, 3000) if tiny else (20, 268_569)), rpn=True)]
    found += [match_boxes_case(*((5, 60) if tiny else (20, 2000)), rpn=False)]
    found += [sample_candidates_case(images, 3000 if tiny else 268_569) for images in (1, 8)]
    found += [fpn_proposals_case(batch, tiny) for batch in (1, 2, 16)]
    found += [single_map_proposals_case(1, tiny)]
    found += [select_detections_case(*((40, 4) if tiny else (1000, 91)))]
    found += [roi_align_case(pyramid, 2, False, dtype, layout) for dtype in DTYPES for layout in FORMATS]
    found += [roi_align_backward_case(pyramid, 2, False, layout) for layout in FORMATS]
    found += [roi_align_case(c4, -1, True, "float32", layout) for layout in FORMATS]
    precisions = ("float32", "bfloat16")
    found += [multi_scale_roi_align_case(levels, dtype, layout) for dtype in precisions for layout in FORMATS]
    found += [multi_scale_roi_align_backward_case(levels, dtype, layout) for dtype in precisions for layout in FORMATS]
    found += [roi_pool_case(vgg, layout) for layout in FORMATS]
    found += [roi_pool_backward_case(vgg, layout) for layout in FORMATS]
    return found
