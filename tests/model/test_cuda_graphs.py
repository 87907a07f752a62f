"""CudaGraphed without a card: padding, filling up, slicing and choosing, by plain calls. Replays: tests/cuda."""

from __future__ import annotations

import contextlib
import copy
import functools
import warnings
from unittest.mock import MagicMock

import pytest
import torch
import torch.nn.functional as F

import fasterrcnn
from fasterrcnn import CudaGraphed
from fasterrcnn.build import SYSTEMS
from fasterrcnn.padded import unpadded
from fasterrcnn.roi import RoIPooler

pytestmark = pytest.mark.filterwarnings("ignore:CudaGraphed:RuntimeWarning")


@functools.cache
def tiny(system: str = "resnet50_c4", **overrides):
    """Not to be changed by a test."""
    torch.manual_seed(0)
    if system != "stepwise_vgg16":  # which has a size of its own
        overrides = {"min_size": None, "max_size": None, **overrides}
    return fasterrcnn.build(system, num_classes=3, backbone="tiny", score_threshold=0.0, **overrides).eval()


def batch_of(count: int, height: int, width: int, seed: int = 0):
    """Images, their valid sizes (a little less than the whole) and resize factors."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, height, width, generator=generator)
    sizes = torch.tensor([[height - 3 * i, width - 2 * i] for i in range(count)])
    return images, sizes, 1 + torch.arange(count) / 4


def assert_same(found, expected) -> None:
    for name, one, other in zip(found._fields, found, expected, strict=True):
        assert torch.equal(one, other), name


# --- results ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS)
def test_equals_forward_padded_at_the_captured_shape(system):
    """Bit for bit, whatever stands in the padding and in the third place, which two images leave unused."""
    model = tiny(system)
    images, sizes, scales = batch_of(2, 90, 100)
    graphed = CudaGraphed(model, [(3, 96, 128)])
    found = graphed(images, sizes, scales)
    other = torch.rand(1, 3, 96, 128)  # a third image of its own, and anything in the padding
    padded = torch.cat([F.pad(images, (0, 28, 0, 6), value=0.7), other])
    with torch.no_grad():
        expected = model.forward_padded(
            padded, torch.cat([sizes, torch.tensor([[80, 128]])]), torch.cat([scales, torch.tensor([2.0])])
        )
    assert found.count.sum() > 0
    assert_same(found, type(expected)(*(result[:2] for result in expected)))
    slots = torch.arange(found.scores.shape[1]) < found.count[:, None]
    assert not found.scores[~slots].any()
    assert not found.boxes[~slots].any()


def test_nothing_is_left_of_earlier_calls():
    """Not of larger images, nor of more of them, nor of what is no number."""
    model = tiny()
    images, sizes, scales = batch_of(1, 50, 40)
    fresh = CudaGraphed(model, [(3, 96, 128)])(images, sizes, scales)
    used = CudaGraphed(model, [(3, 96, 128)])
    large, large_sizes, large_scales = batch_of(3, 96, 128, seed=1)
    for before in (large, torch.full_like(large, float("nan"))):
        used(before, large_sizes, large_scales)
        assert_same(used(images, sizes, scales), fresh)


def test_results_are_copies():
    graphed = CudaGraphed(tiny(), [(1, 64, 64)])
    first = graphed(*batch_of(1, 64, 64))
    kept = type(first)(*(result.clone() for result in first))
    graphed(*batch_of(1, 64, 64, seed=1))
    assert_same(first, kept)
    assert not any(result.requires_grad for result in first)


def test_scales_default_to_one():
    """The only rule that needs them: the classic family's smallest side."""
    graphed = CudaGraphed(tiny("classic_vgg16"), [(2, 96, 96)], max_detections=2000)  # all there are
    images, sizes, _ = batch_of(2, 96, 96)
    graphed(images, sizes, torch.full((2,), 4.0))
    assert_same(graphed(images, sizes), graphed(images, sizes, torch.ones(2)))
    assert graphed(images, sizes, torch.full((2,), 4.0)).count.sum() < graphed(images, sizes).count.sum()


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32])
def test_dtypes_of_sizes(dtype):
    graphed = CudaGraphed(tiny(), [(2, 64, 64)])
    images, sizes, _ = batch_of(2, 60, 64)
    assert_same(graphed(images.double(), sizes.to(dtype)), graphed(images, sizes))


@pytest.mark.parametrize("system", SYSTEMS)
def test_detect(system):
    """At exactly a captured shape: model.detect, to the last bit. At another: that of the padded batch."""
    overrides = {"image_size": (96, 128)} if system == "stepwise_vgg16" else {}
    model = tiny(system, **overrides)
    images = [torch.rand(3, 96, 128), torch.rand(3, 80, 100)]
    exact = CudaGraphed(model, [(2, 96, 128)])
    for found, expected in zip(exact.detect(images), model.detect(images), strict=True):
        assert len(expected) > 0
        assert torch.equal(found.boxes, expected.boxes)
        assert torch.equal(found.labels, expected.labels)
        assert torch.equal(found.scores, expected.scores)
    larger = CudaGraphed(model, [(2, 112, 144)])
    batch = model.batcher.collate(images)
    batch.images = F.pad(batch.images, (0, 16, 0, 16))
    with torch.no_grad():
        padded = model.forward_padded(batch.images, batch.image_sizes(), batch.image_scales())
    for found, expected in zip(larger.detect(images), unpadded(padded, batch), strict=True):
        assert torch.equal(found.boxes, expected.boxes)
    assert exact.detect([]) == []


def test_rpn_alone():
    model = tiny(rpn_only=True)
    images, sizes, scales = batch_of(2, 64, 96)
    with torch.no_grad():
        assert_same(
            CudaGraphed(model, [(2, 64, 96)])(images, sizes, scales), model.forward_padded(images, sizes, scales)
        )


def test_multiples_of_the_stride_keep_the_scale_of_roi_pool():
    """RoIPool by the ratio of map to image is then RoIPool by the stride, however much is padded; else it is not."""
    features, boxes, indices = torch.rand(1, 2, 6, 8), torch.tensor([[70.0, 60, 110, 90]]), torch.zeros(1)
    by_ratio, by_stride = RoIPooler("pool", 3), RoIPooler("pool", 3, spatial_scale=1 / 16)
    assert torch.equal(by_ratio(features, boxes, indices, (96, 128)), by_stride(features, boxes, indices, (96, 128)))
    assert not torch.equal(
        by_ratio(features, boxes, indices, (111, 143)), by_stride(features, boxes, indices, (96, 128))
    )


# --- thresholds ------------------------------------------------------------------------------------------------------


def test_thresholds_belong_to_the_graphs():
    model = tiny()
    images, sizes, scales = batch_of(1, 64, 96)
    graphed = CudaGraphed(model, [(1, 64, 96)], max_detections=4, nms_threshold=0.9)
    found = graphed(images, sizes, scales, max_detections=4)
    with torch.no_grad():
        assert_same(found, model.forward_padded(images, sizes, scales, max_detections=4, nms_threshold=0.9))
    assert found.scores.shape == (1, 4)
    with pytest.raises(
        ValueError, match=r"max_detections=5 is not what was captured \(4\); give it to the constructor"
    ):
        graphed(images, sizes, max_detections=5)
    with pytest.raises(ValueError, match=r"score_threshold=0.5 is not what was captured \(the model's own\)"):
        graphed.detect([images[0]], score_threshold=0.5)


# --- choosing, refusing, warning -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def several():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CudaGraphed(tiny(), [(4, 64, 64), (1, 64, 96), (1, 96, 64), (1, 64, 64), (1, 64, 64)])


def test_smallest_shape_that_fits(several):
    assert several.shapes == [(1, 64, 64), (1, 64, 96), (1, 96, 64), (4, 64, 64)]
    assert several.shape_for(1, 32, 64) == (1, 64, 64)
    assert several.shape_for(1, 65, 40) == (1, 96, 64)
    assert several.shape_for(1, 40, 65) == (1, 64, 96)
    assert several.shape_for(2, 40, 40) == (4, 64, 64)


@pytest.mark.parametrize("shape", [(5, 64, 64), (2, 64, 65), (1, 97, 40), (1, 65, 65)])
def test_what_fits_no_shape_is_refused(several, shape):
    count, height, width = shape
    known = r"\(1, 64, 64\), \(1, 64, 96\), \(1, 96, 64\), \(4, 64, 64\)"
    with pytest.raises(ValueError, match=rf"{count} image\(s\) of {height} × {width} pixels fit none .*: {known}"):
        several(*batch_of(*shape))


def test_wrong_tensors(several):
    images, sizes, scales = batch_of(2, 40, 40)
    with pytest.raises(ValueError, match=r"images: expected shape \[B, 3, H, W\] with B ≥ 1, got \[0, 3, 40, 40\]"):
        several(images[:0], sizes[:0])
    with pytest.raises(ValueError, match=r"images: expected shape .*, got \[3, 40, 40\]"):
        several(images[0], sizes)
    with pytest.raises(ValueError, match=r"image_sizes: expected shape \[2, 2\], got \[1, 2\]"):
        several(images, sizes[:1])  # would be copied to both
    with pytest.raises(ValueError, match=r"scales: expected shape \[2\], got \[1\]"):
        several(images, sizes, scales[:1])
    with pytest.raises(TypeError, match=r"images: expected floats in 0–1, got torch.uint8"):
        several((images * 255).byte(), sizes)  # would be copied as they are


@pytest.mark.parametrize("shapes", [[(1, 64)], [(0, 64, 64)], [(1, 31, 64)], [(1, 64, 64), (1, 64, 8)]])
def test_wrong_shapes(shapes):
    with pytest.raises(ValueError, match=r"shapes: expected \(B, H, W\) with B ≥ 1 and H, W ≥ 32"):
        CudaGraphed(tiny(), shapes)


def test_no_shapes_and_training_mode():
    with pytest.raises(ValueError, match="shapes: expected at least one"):
        CudaGraphed(tiny(), [])
    with pytest.raises(ValueError, match="evaluation mode"):
        CudaGraphed(copy.deepcopy(tiny()).train(), [(1, 64, 64)])
    with pytest.raises(ValueError, match="warmup"):
        CudaGraphed(tiny(), [(1, 64, 64)], warmup=0)


@pytest.mark.filterwarnings("default")
def test_says_once_that_there_are_no_graphs():
    with pytest.warns(RuntimeWarning, match="the model is on cpu, where there are no CUDA graphs") as told:
        graphed = CudaGraphed(tiny(), [(1, 64, 64), (1, 64, 96)])
    assert len(told) == 1
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graphed(*batch_of(1, 64, 64))
    assert "plain calls on cpu" in repr(graphed)


def test_parameters_changed_in_place_count():
    model = copy.deepcopy(tiny())
    graphed = CudaGraphed(model, [(1, 64, 64)])
    arguments = batch_of(1, 64, 64)
    before = graphed(*arguments)
    model.load_state_dict({name: value * 1.5 for name, value in model.state_dict().items()})
    after = graphed(*arguments)
    assert not torch.equal(before.scores, after.scores)


def test_training_that_goes_on_changes_nothing():
    """Graphs stay what they are, and so do the plain calls that stand for them; the model keeps its mode."""
    model = copy.deepcopy(tiny())
    graphed = CudaGraphed(model, [(1, 64, 64)])
    arguments = batch_of(1, 64, 64)
    before = graphed(*arguments)
    model.train()
    assert_same(graphed(*arguments), before)
    assert model.training


# --- capturing, with the calls to CUDA pretended ---------------------------------------------------------------------


class PretendedGraph:
    """Replays by doing again what ran while it was captured, into the same results."""

    def __init__(self) -> None:
        self.replays = 0
        self.again = None

    def replay(self) -> None:
        self.replays += 1
        self.again()


@pytest.fixture
def pretended(monkeypatch):
    """torch.cuda as far as it is used; ``entered`` lists graphs and pools in the order of capture."""
    cuda = MagicMock(name="torch.cuda")
    cuda.CUDAGraph = PretendedGraph
    cuda.entered = []

    @contextlib.contextmanager
    def graph(graph, pool):
        cuda.entered.append((graph, pool))
        yield

    cuda.graph = graph
    cuda.device = cuda.stream = MagicMock(side_effect=lambda *_: contextlib.nullcontext())
    for name in ("CUDAGraph", "graph", "device", "stream", "Stream", "current_stream", "graph_pool_handle"):
        monkeypatch.setattr(torch.cuda, name, getattr(cuda, name))
    monkeypatch.setattr(fasterrcnn.cuda_graphs, "_has_graphs", lambda device: True)
    return cuda


def test_captures_and_replays(pretended, monkeypatch):
    """Warm-up before each capture, the largest first, one pool; a call replays the graph and runs nothing else."""
    model = tiny()
    calls = []
    run = CudaGraphed._run
    monkeypatch.setattr(CudaGraphed, "_run", lambda self, captured: calls.append(captured) or run(self, captured))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graphed = CudaGraphed(model, [(1, 64, 64), (2, 64, 96)], warmup=2)
    assert [tuple(captured.images.shape) for captured in calls] == [(2, 3, 64, 96)] * 3 + [(1, 3, 64, 64)] * 3
    graphs, pools = zip(*pretended.entered, strict=True)
    assert pools == (pretended.graph_pool_handle.return_value,) * 2
    assert pretended.graph_pool_handle.call_count == 1
    small, large = (graphed._captured[shape] for shape in graphed.shapes)
    assert graphs == (large.graph, small.graph)

    def again():
        with torch.no_grad():
            for result, new in zip(large.results, run(graphed, large), strict=True):
                result.copy_(new)

    large.graph.again = again
    images, sizes, scales = batch_of(2, 60, 90)
    found = graphed(images, sizes, scales)
    assert (large.graph.replays, small.graph.replays, len(calls)) == (1, 0, 6)
    with torch.no_grad():
        assert_same(found, model.forward_padded(F.pad(images, (0, 6, 0, 4)), sizes, scales))
    assert all(one.data_ptr() != other.data_ptr() for one, other in zip(found, large.results, strict=True))
    assert "CUDA graphs" in repr(graphed)
