"""CudaGraphed on a card: replays equal plain calls, wait for nothing, and share one memory pool.

Skipped, visibly, without a card. What needs none (padding, choosing, refusing) is in tests/model/test_cuda_graphs.py.
"""

from __future__ import annotations

import pytest
import support
import torch
import torch.nn.functional as F

import fasterrcnn
from fasterrcnn import CudaGraphed
from fasterrcnn.build import SYSTEMS

pytestmark = support.needs_cuda_kernel("nms_padded")


def tiny(system: str = "resnet50_c4"):
    torch.manual_seed(0)
    overrides = {} if system == "stepwise_vgg16" else {"min_size": None, "max_size": None}
    model = fasterrcnn.build(system, num_classes=3, backbone="tiny", score_threshold=0.0, **overrides)
    return model.eval().cuda()


def batch_of(count: int, height: int, width: int, seed: int = 0):
    images = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))
    sizes = torch.tensor([[height - 3 * i, width - 2 * i] for i in range(count)])
    return images.cuda(), sizes.cuda(), (1 + torch.arange(count) / 4).cuda()


@pytest.fixture(autouse=True)
def _same_algorithms():
    """Convolutions of a graph and of a plain call are then the same, and results equal to the last bit."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = before


def assert_same(found, expected) -> None:
    for name, one, other in zip(found._fields, found, expected, strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("system", SYSTEMS)
def test_replays_equal_plain_calls(system):
    """Again and again, with other images, at two shapes whose graphs share their memory."""
    model = tiny(system)
    graphed = CudaGraphed(model, [(1, 96, 128), (2, 160, 192)])
    for seed in range(3):
        for count, height, width in ((1, 96, 128), (2, 160, 192), (1, 90, 100)):
            images, sizes, scales = batch_of(count, height, width, seed)
            found = graphed(images, sizes, scales)
            shape = graphed.shape_for(count, height, width)
            with torch.no_grad():
                padded = F.pad(images, (0, shape[2] - width, 0, shape[1] - height))
                assert_same(found, model.forward_padded(padded, sizes, scales))


@pytest.mark.parametrize("system", SYSTEMS)
def test_calls_wait_for_nothing(system):
    graphed = CudaGraphed(tiny(system), [(3, 96, 128)])
    images, sizes, scales = batch_of(2, 90, 100)
    with support.no_synchronisation():
        found = graphed(images, sizes, scales)
        graphed(images, sizes)
    assert found.count.sum() > 0


def test_detect_is_the_models():
    model = tiny()
    images = [torch.rand(3, 96, 128), torch.rand(3, 80, 100)]
    for found, expected in zip(CudaGraphed(model, [(2, 96, 128)]).detect(images), model.detect(images), strict=True):
        assert torch.equal(found.boxes, expected.boxes)
        assert torch.equal(found.labels, expected.labels)


def test_results_are_copies():
    graphed = CudaGraphed(tiny(), [(1, 96, 128)])
    first = graphed(*batch_of(1, 96, 128))
    kept = type(first)(*(result.clone() for result in first))
    graphed(*batch_of(1, 96, 128, seed=1))
    assert_same(first, kept)


def test_on_another_stream():
    graphed = CudaGraphed(tiny(), [(1, 96, 128)])
    arguments = batch_of(1, 96, 128)
    expected = graphed(*arguments)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = graphed(*arguments)
    torch.cuda.current_stream().wait_stream(stream)
    assert_same(found, expected)


def test_half_features():
    model = tiny().optimize_for_inference(dtype=torch.bfloat16)
    arguments = batch_of(1, 96, 128)
    with torch.no_grad():
        assert_same(CudaGraphed(model, [(1, 96, 128)])(*arguments), model.forward_padded(*arguments))


def test_parameters_changed_in_place_count():
    model = tiny()
    graphed = CudaGraphed(model, [(1, 96, 128)])
    arguments = batch_of(1, 96, 128)
    before = graphed(*arguments)
    model.load_state_dict({name: value * 1.5 for name, value in model.state_dict().items()})
    after = graphed(*arguments)
    assert not torch.equal(before.scores, after.scores)
    with torch.no_grad():
        assert_same(after, model.forward_padded(*arguments))
