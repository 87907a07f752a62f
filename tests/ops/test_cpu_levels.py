"""Every CPU level this machine can run gives the same bits, with one thread and with two.

The level is chosen once per process, so each runs in its own: this file, run as a program, writes the results of all
cases. A case is a function without arguments that returns tensors; it draws its inputs from seeded generators.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import rpn_maps
import support
import torch
from head_outputs import SIZES, head_outputs
from nms_scenes import SCENES, of_all_sizes, random_ids, seeded
from pyramid_scenes import CANONICAL_LEVEL, CANONICAL_SCALE, SCALES, pyramid, rois_of_all_sizes
from roi_scenes import MEMORY_FORMATS, SCALE, feature_map
from roi_scenes import SCENES as ROI_SCENES
from roi_scenes import seeded as roi_seeded
from torch import Tensor

import fasterrcnn_ops
import fasterrcnn_ops.numpy as ops
from fasterrcnn_ops import _library

# --- the cases: one function per operator family, a line in the table -------------------------------------------------


def nms_family() -> Iterator[Tensor]:
    for scene in (*SCENES.values(), of_all_sizes):
        for n in (0, 1, 5, 33, 300, 2000):
            for dtype in (torch.float32, torch.float64):
                boxes, scores = scene(n, seeded(n), dtype)
                ids = random_ids(n, seeded(n), 7)
                for threshold in (0.3, 0.7, 1 / 3, 0.0, -0.5):
                    yield fasterrcnn_ops.nms(boxes, scores, threshold)
                    yield fasterrcnn_ops.batched_nms(boxes, scores, ids, threshold)
                    yield from fasterrcnn_ops.nms_padded(boxes, scores, iou_threshold=threshold, max_output=50)


def proposals_family() -> Iterator[Tensor]:
    sizes = torch.tensor([[160, 235], [150, 240]])
    for values in ("ordinary", "ties", "hostile"):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            for layout in rpn_maps.LAYOUTS.values():
                objectness, deltas, cells = rpn_maps.maps_of(rpn_maps.PYRAMID, dtype=dtype, values=values)
                arguments = ([layout(m) for m in objectness], [layout(m) for m in deltas], cells)
                for pre, before in ((20, False), (200, True), (3000, False)):
                    yield from fasterrcnn_ops.generate_proposals(
                        *arguments,
                        rpn_maps.PYRAMID_STRIDES,
                        sizes,
                        pre_nms_top_n=pre,
                        post_nms_top_n=300,
                        nms_threshold=0.7,
                        min_size=9.0,
                        filter_before_topk=before,
                    )


def detections_family() -> Iterator[Tensor]:
    for values in ("ordinary", "ties", "hostile"):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            outputs = head_outputs(2, 300, 20, dtype=dtype, values=values)
            for per_class in (None, 5):
                yield from fasterrcnn_ops.select_detections_with_proposal(
                    *outputs,
                    SIZES,
                    score_threshold=0.05,
                    nms_threshold=0.5,
                    max_detections=200,
                    candidates_per_class=per_class,
                )


def numpy_module() -> Iterator[Tensor]:
    """The NumPy functions choose their level on their own."""
    boxes, scores = (tensor.numpy() for tensor in SCENES["hostile"](700, seeded(0), torch.float32))
    arrays = [
        ops.nms(boxes, scores, 0.4),
        ops.batched_nms(boxes, scores, random_ids(700, seeded(1), 5).numpy(), 0.4),
        *ops.soft_nms(boxes, scores),
        ops.box_iou(boxes, boxes[:99]),
        ops.encode_boxes(boxes, boxes[::-1]),
        ops.decode_boxes(boxes / 100, boxes, image_size=(30, 40)),
        ops.grid_anchors(boxes[:9], (13, 17), 16),
    ]
    for array in arrays:
        yield torch.from_numpy(array)


def soft_nms() -> Iterator[Tensor]:
    for scene in SCENES.values():
        for n in (0, 1, 33, 500):
            for dtype in (torch.float32, torch.float64):
                for method in ("naive", "linear", "gaussian"):
                    for threshold, min_score in ((0.3, 1e-3), (0.0, -1.0)):
                        yield from fasterrcnn_ops.soft_nms(
                            *scene(n, seeded(n), dtype), threshold, 0.5, min_score, method
                        )


def anchors() -> Iterator[Tensor]:
    for dtype in (torch.float32, torch.float64):
        for feature_size in ((1, 1), (3, 7), (50, 84), (1, 33)):
            for count in (1, 3, 5):
                cells = support.random_boxes(count, dtype=dtype, generator=seeded(count))
                yield fasterrcnn_ops.grid_anchors(cells, feature_size, (15.9, 4.0), offset=0.3)


def box_coding() -> Iterator[Tensor]:
    for dtype in (torch.float32, torch.float64):
        for count, per_anchor in ((1, 1), (17, 1), (9000, 1), (50, 3), (200, 91)):
            anchors = support.random_boxes(count, dtype=dtype, generator=seeded(1))
            boxes = support.random_boxes(count, dtype=dtype, generator=seeded(2))
            deltas = torch.randn(count, 4 * per_anchor, dtype=dtype, generator=seeded(3)) * 3
            deltas[::7, 2] = -math.inf
            deltas[::5, 3] = math.nan
            deltas[::3, 1] = 1e30
            for image_size in (None, (480, 640)):
                yield fasterrcnn_ops.decode_boxes(deltas, anchors, (10, 10, 5, 5), clip=9.0, image_size=image_size)
            yield fasterrcnn_ops.encode_boxes(boxes, anchors, (10, 10, 5, 5), inclusive=True)
            yield fasterrcnn_ops.encode_boxes(deltas[:, :4], anchors)


def pairwise_iou() -> Iterator[Tensor]:
    for dtype in (torch.float32, torch.float64):
        for rows, columns in ((1, 1), (3, 4000), (300, 7), (33, 2048)):
            boxes1 = support.random_boxes(rows, dtype=dtype, generator=seeded(1))
            boxes2 = support.random_boxes(columns, dtype=dtype, generator=seeded(2))
            boxes2[::9, 2] = math.inf
            boxes2[::7, 1] = math.nan
            yield fasterrcnn_ops.box_iou(boxes1, boxes2)
            grad = torch.randn(rows, columns, dtype=dtype, generator=seeded(3))
            yield from torch.ops.fasterrcnn_ops.box_iou_backward(grad, boxes1, boxes2)


def matching() -> Iterator[Tensor]:
    for dtype in (torch.float32, torch.float64):
        for targets, boxes in ((1, 1), (3, 17), (20, 5000), (150, 800)):
            truth = support.random_boxes(targets, dtype=dtype, generator=seeded(1))
            found = torch.cat((support.random_boxes(boxes, dtype=dtype, generator=seeded(2)), truth))
            batch = torch.stack((truth, truth.flip(0), torch.full_like(truth, torch.nan)))
            batch[1, ::3] = torch.nan
            for allow_low_quality in (False, True):
                for given in (truth, batch):
                    yield fasterrcnn_ops.match_boxes(
                        given, found, high_threshold=0.7, low_threshold=0.3, allow_low_quality=allow_low_quality
                    )


def roi_align_family() -> Iterator[Tensor]:
    """Maps narrower than a vector and wider than many, RoIs of all kinds, bins narrower and wider than a vector."""
    for dtype in support.FLOAT_DTYPES:
        for layout in MEMORY_FORMATS:
            for seed, size in enumerate([(2, 35, 12, 17), (1, 20, 9, 70), (1, 3, 5, 300), (2, 17, 3, 5)]):
                features = feature_map(size, roi_seeded(seed), dtype, layout).requires_grad_()
                for scene in ROI_SCENES.values():
                    rois = scene(8, size, roi_seeded(seed))
                    for bins, ratio, aligned in ((7, 2, False), ((5, 14), -1, True), ((2, 19), 3, True)):
                        pooled = fasterrcnn_ops.roi_align(features, rois, bins, SCALE, ratio, aligned)
                        grad = torch.randn(pooled.shape, generator=roi_seeded(1), dtype=torch.float64).to(dtype)
                        yield pooled.detach()
                        yield from torch.autograd.grad(pooled, features, grad)


def roi_pool_family() -> Iterator[Tensor]:
    for dtype in support.FLOAT_DTYPES:
        for layout in MEMORY_FORMATS:
            for seed, size in enumerate([(2, 35, 12, 17), (1, 20, 9, 70), (1, 3, 5, 300), (2, 17, 3, 5)]):
                features = (feature_map(size, roi_seeded(seed), dtype, layout) * 2).round()  # ties
                features[features > 3] = math.nan
                for scene in ROI_SCENES.values():
                    rois = scene(8, size, roi_seeded(seed))
                    for bins in ((7, 7), (5, 14), (2, 19)):
                        arguments = features, rois, SCALE, *bins
                        output, argmax = torch.ops.fasterrcnn_ops.roi_pool_forward(*arguments)
                        yield from (output, argmax)
                        yield torch.ops.fasterrcnn_ops.roi_pool_backward(
                            output.nan_to_num(0), rois, argmax, SCALE, *bins, *size, layout == "channels_last"
                        )


def multi_scale_roi_align_family() -> Iterator[Tensor]:
    for dtype in support.FLOAT_DTYPES:
        for layout in MEMORY_FORMATS:
            maps = [map_.requires_grad_() for map_ in pyramid(2, 35, dtype, layout)]
            rois = rois_of_all_sizes(70)
            pooled = fasterrcnn_ops.multi_scale_roi_align(
                maps, rois, 7, SCALES, 2, canonical_scale=CANONICAL_SCALE, canonical_level=CANONICAL_LEVEL
            )
            yield pooled.detach()
            yield from torch.autograd.grad(pooled, maps, (pooled.detach() + 1))


CASES: dict[str, Callable[[], Iterator[Tensor]]] = {
    "anchors": anchors,
    "box_coding": box_coding,
    "box_iou": pairwise_iou,
    "matching": matching,
    "nms": nms_family,
    "proposals": proposals_family,
    "detections": detections_family,
    "numpy": numpy_module,
    "soft_nms": soft_nms,
    "roi_align": roi_align_family,
    "roi_pool": roi_pool_family,
    "multi_scale_roi_align": multi_scale_roi_align_family,
}


# --- running and comparing them --------------------------------------------------------------------------------------

THREADS = (1, 2)
TESTS = Path(support.__file__).parent


def run_all(file: Path) -> None:
    results = {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        for name, case in CASES.items():
            results[name, threads] = [tensor.contiguous().clone() for tensor in case()]
    torch.save(results, file)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """level -> (case, threads) -> tensors."""
    found = {}
    for level in _library.cpu_levels():
        file = tmp_path_factory.mktemp("levels") / f"{level}.pt"
        program = f"import sys; sys.path.append({str(TESTS)!r}); import runpy; sys.argv[1:] = [{str(file)!r}]; "
        program += f"runpy.run_path({__file__!r}, run_name='__main__')"
        run = support.run_python("-c", program, FASTERRCNN_OPS_CPU_LEVEL=level)
        assert run.returncode == 0, run.stderr
        found[level] = torch.load(file)
    return found


def with_one_nan(tensor: Tensor) -> Tensor:
    """Of two NaN operands the result is either, in sign and payload; which, is the order that a compiler chose."""
    return tensor.masked_fill(tensor.isnan(), math.nan) if tensor.is_floating_point() else tensor


@pytest.mark.xdist_group("levels")  # they share the results
@pytest.mark.parametrize("case", CASES)
def test_same_bits_at_every_level_and_thread_count(results, case):
    expected = results["baseline"][case, 1]
    assert len(expected) > 0
    for level, found in results.items():
        for threads in THREADS:
            assert len(found[case, threads]) == len(expected)
            for number, (tensor, wanted) in enumerate(zip(found[case, threads], expected, strict=True)):
                try:
                    support.assert_bitwise_equal(with_one_nan(tensor), with_one_nan(wanted))
                except AssertionError as error:
                    raise AssertionError(f"{case} at {level}, {threads} threads, result {number}") from error


# --- choosing a level ------------------------------------------------------------------------------------------------

USE_ONE = """
import torch, fasterrcnn_ops
print(fasterrcnn_ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5))
from fasterrcnn_ops import _library
print(_library.describe()["CPU kernels"])
"""


def use_one(level: str) -> subprocess.CompletedProcess[str]:
    return support.run_python("-c", USE_ONE, FASTERRCNN_OPS_CPU_LEVEL=level)


def test_the_variable_forces_a_level():
    for level in _library.cpu_levels():
        run = use_one(level)
        assert run.returncode == 0, run.stderr
        assert f"{level} (this machine" in run.stdout


def test_the_highest_level_is_the_default():
    assert f"{_library.cpu_levels()[-1]} (this machine" in use_one("").stdout


def test_an_unknown_level_is_named():
    run = use_one("avx1024")
    assert run.returncode != 0
    names = ", ".join(_library.cpu_levels())
    assert f'FASTERRCNN_OPS_CPU_LEVEL: expected one of {names} on this machine, got "avx1024"' in run.stderr


@pytest.mark.slow
def test_no_level_leaves_code_behind_for_another():
    root = Path(__file__).resolve().parents[2]
    if not (root / "csrc").is_dir():
        pytest.skip("no csrc/: not a source tree")
    run = subprocess.run([sys.executable, root / "tools" / "check_cpu_levels.py"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_code_left_behind_is_found(tmp_path):
    """The check itself: an inline function outside the level's namespace, not inlined, is a weak symbol."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "csrc").is_dir():
        pytest.skip("no csrc/: not a source tree")
    source = tmp_path / "leaky_cpu_levels.cpp"
    source.write_text(
        '#include "cpu_level.h"\n'
        "namespace frcnn { __attribute__((noinline)) inline float leak(float x) { return x * x; } }\n"
        "namespace frcnn::FRCNN_CPU_LEVEL { float f(float x) { return leak(x); } }\n"
    )
    program = [sys.executable, root / "tools" / "check_cpu_levels.py", source]
    run = subprocess.run(program, capture_output=True, text=True)
    assert run.returncode == 1
    assert "W frcnn::leak(float)" in run.stderr


if __name__ == "__main__":
    run_all(Path(sys.argv[1]))
