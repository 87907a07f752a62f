"""The short list for compute-sanitizer: every operator once at small sizes, results compared with the CPU's.

Run by the ``sanitizer`` stage of ``benchmarks/gpu_acceptance.py``; ``--canary`` only asks whether torch and the tool
get along.
"""

from __future__ import annotations

import sys

import torch

CUDA = torch.device("cuda")


def canary() -> None:
    assert torch.ones(1000, device=CUDA).sum().item() == 1000


def operators(device: torch.device) -> None:
    from fasterrcnn_ops import box_iou, decode_boxes, encode_boxes, grid_anchors, soft_nms
    from fasterrcnn_ops.detections import select_detections_with_proposal
    from fasterrcnn_ops.matching import match_boxes
    from fasterrcnn_ops.multi_scale_roi_align import multi_scale_roi_align
    from fasterrcnn_ops.nms import batched_nms, nms, nms_padded
    from fasterrcnn_ops.proposals import generate_proposals
    from fasterrcnn_ops.roi_align import roi_align
    from fasterrcnn_ops.roi_pool import roi_pool
    from fasterrcnn_ops.sampling import sample_candidates

    generator = torch.Generator().manual_seed(0)

    def random_boxes(count: int) -> torch.Tensor:
        corner, side = torch.rand(2, count, 2, generator=generator) * 60
        return torch.cat((corner, corner + side + 1), dim=1)

    def check(name: str, call, *inputs: torch.Tensor) -> None:
        found, expected = call(*(tensor.to(device) for tensor in inputs)), call(*inputs)
        pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
        for one, other in pairs:
            torch.testing.assert_close(one.cpu(), other, rtol=1e-4, atol=1e-3, equal_nan=True)
        print(name, flush=True)

    check("grid_anchors", lambda cells: grid_anchors(cells, (5, 7), 16), random_boxes(3))
    boxes, anchors = random_boxes(300), random_boxes(300)
    check("encode_boxes", encode_boxes, boxes, anchors)
    check("decode_boxes", decode_boxes, encode_boxes(boxes, anchors), anchors)
    check("box_iou", box_iou, boxes, random_boxes(37))
    grad = torch.randn(300, 77, generator=generator)
    check("box_iou_backward", torch.ops.fasterrcnn_ops.box_iou_backward, grad, boxes, random_boxes(77))
    for low_quality in (True, False):
        thresholds = {"high_threshold": 0.5, "low_threshold": 0.3, "allow_low_quality": low_quality}
        check(
            "match_boxes",
            lambda truth, boxes, thresholds=thresholds: match_boxes(truth, boxes, **thresholds),
            *(random_boxes(7), boxes),
        )
    for method in ("naive", "linear", "gaussian"):
        scores = torch.rand(300, generator=generator)
        check(f"soft_nms {method}", lambda *inputs, method=method: soft_nms(*inputs, method=method), boxes, scores)
    for count in (65, 300):
        boxes, scores = random_boxes(count), torch.rand(count, generator=generator)
        ids = torch.randint(4, (count,), generator=generator)
        check(f"nms {count}", lambda boxes, scores: nms(boxes, scores, 0.5), boxes, scores)
        check(f"batched_nms {count}", lambda *inputs: batched_nms(*inputs, 0.5), boxes, scores, ids)
        check(
            f"nms_padded {count}", lambda *inputs: nms_padded(*inputs, iou_threshold=0.5, max_output=20), boxes, scores
        )
    fine, coarse = (
        [torch.randn(2, a * c, h, w, generator=generator) for c in (1, 4)] for a, h, w in ((3, 29, 31), (2, 7, 9))
    )
    for filtered in (False, True):
        for top_n in (60, 1500):  # a tile of each level, and more
            rules = {"pre_nms_top_n": top_n, "post_nms_top_n": 40, "nms_threshold": 0.6, "filter_before_topk": filtered}

            def proposals_of(logits, deltas, coarse_logits, coarse_deltas, cells, sizes, rules=rules):
                maps = [logits, coarse_logits], [deltas, coarse_deltas], [cells, cells[:2]]
                return generate_proposals(*maps, (4, 16), sizes, **rules)

            maps = (*fine, *coarse, random_boxes(3) - 30, torch.tensor([[116, 124], [90, 80]]))
            check(f"generate_proposals {top_n} {filtered}", proposals_of, *maps)
    for count in (77, 5000):
        draw = torch.rand(3, count, generator=generator)
        masks, seeds = (draw < 0.1, draw > 0.2), torch.randint(2**63 - 1, (3,), generator=generator)
        check(
            f"sample_candidates {count}",
            lambda *inputs: sample_candidates(*inputs, num_samples=64, max_positive=32),
            *masks,
            seeds,
        )
    logits, deltas = torch.randn(2, 70, 4, generator=generator), torch.randn(2, 70, 16, generator=generator)
    proposals, count, sizes = random_boxes(140).view(2, 70, 4), torch.tensor([70, 65]), torch.tensor([[90, 80]] * 2)
    rules = {"score_threshold": 0.1, "nms_threshold": 0.5, "max_detections": 30}
    check(
        "select_detections",
        lambda *inputs: select_detections_with_proposal(*inputs, **rules),
        *(logits, deltas, proposals, count, sizes),
    )
    for layout in (torch.contiguous_format, torch.channels_last):
        for channels in (8, 5):  # wide and scalar accesses
            features = torch.randn(2, channels, 12, 17, generator=generator).to(memory_format=layout)
            rois = torch.cat((torch.randint(2, (9, 1), generator=generator), random_boxes(9) * 2), dim=1)
            for name, call in (
                ("roi_align", lambda features, rois: roi_align(features, rois, 3, 1 / 8, 2)),
                ("roi_align adaptive", lambda features, rois: roi_align(features, rois, 3, 1 / 8, aligned=True)),
                ("roi_pool", lambda features, rois: roi_pool(features, rois, 3, 1 / 8)),
            ):

                def forward_and_gradient(features, rois, call=call):
                    leaf = features.detach().requires_grad_()
                    pooled = call(leaf, rois)
                    return pooled.detach(), torch.autograd.grad(pooled.square().sum(), leaf)[0]

                check(f"{name} {channels} channels", forward_and_gradient, features, rois)
            coarse = torch.randn(2, channels, 6, 9, generator=generator).to(memory_format=layout)

            def pyramid(fine, coarse, rois):
                leaves = [fine.detach().requires_grad_(), coarse.detach().requires_grad_()]
                pooled = multi_scale_roi_align(leaves, rois, 3, (1 / 8, 1 / 16), 2, canonical_scale=40)
                return pooled.detach(), *torch.autograd.grad(pooled.square().sum(), leaves)

            check(f"multi_scale_roi_align {channels} channels", pyramid, features, coarse, rois)


if __name__ == "__main__":
    canary()
    if "--canary" not in sys.argv:
        operators(CUDA)
    torch.cuda.synchronize()
