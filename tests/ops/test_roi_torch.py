"""How the RoI operators behave inside torch: gradients, opcheck, determinism, compile, autocast, error messages."""

from __future__ import annotations

import functools

import pytest
import support
import torch
from roi_scenes import MEMORY_FORMATS, SCALE, feature_map, ordinary, seeded
from support import FLOAT_DTYPES, HALF_DTYPES, dtype_id

from fasterrcnn_ops.roi_align import RoIAlign, roi_align
from fasterrcnn_ops.roi_pool import RoIPool, roi_pool

OPERATORS = {
    "align": functools.partial(roi_align, spatial_scale=SCALE),
    "align_2_aligned": functools.partial(roi_align, spatial_scale=SCALE, sampling_ratio=2, aligned=True),
    "pool": functools.partial(roi_pool, spatial_scale=SCALE),
}
SIZE = (2, 3, 6, 7)


@pytest.fixture(autouse=True)
def _kernel_there(request: pytest.FixtureRequest) -> None:
    device = request.getfixturevalue("device").type if "device" in request.fixturenames else "cpu"
    if not torch._C._dispatch_has_kernel_for_dispatch_key("fasterrcnn_ops::roi_align_forward", device.upper()):
        pytest.skip(f"roi_align has no {device} kernel in this build")


def scene(dtype: torch.dtype = torch.float32, layout: str = "contiguous", k: int = 5, size=SIZE):
    """A map whose values all differ, so that roi_pool is differentiable everywhere, and RoIs."""
    count = size[0] * size[1] * size[2] * size[3]
    features = torch.randperm(count, generator=seeded(0)).to(dtype).reshape(size) / 16
    return features.to(memory_format=MEMORY_FORMATS[layout]), ordinary(k, size, seeded(1))


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", MEMORY_FORMATS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_gradcheck(device, operator, layout):
    """First and second derivatives, the latter through the backward operator's own gradient."""
    features, rois = scene(torch.float64, layout, size=(2, 2, 4, 5))
    features, rois = features.to(device).requires_grad_(), rois.double().to(device)
    call = functools.partial(OPERATORS[operator], boxes=rois, output_size=(2, 3))
    assert torch.autograd.gradcheck(call, (features,), fast_mode=False)
    assert torch.autograd.gradgradcheck(call, (features,), fast_mode=False)


@pytest.mark.parametrize("operator", OPERATORS)
def test_double_backward_of_no_rois_and_empty_bins(operator):
    features, _ = scene(torch.float64)
    features.requires_grad_()
    for rois in (torch.empty(0, 5), torch.tensor([[0, 1e4, 1e4, 2e4, 2e4]])):
        pooled = OPERATORS[operator](features, rois, 2)
        (grad,) = torch.autograd.grad((pooled**2).sum(), features, create_graph=True)
        (second,) = torch.autograd.grad(grad.sum(), features, allow_unused=True)
        assert second is None or (second == 0).all()


@pytest.mark.parametrize("operator", OPERATORS)
def test_rois_get_no_gradient(operator):
    features, rois = scene()
    rois.requires_grad_()
    OPERATORS[operator](features.requires_grad_(), rois, 2).sum().backward()
    assert features.grad is not None
    assert rois.grad is None


# --- opcheck ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("layout", MEMORY_FORMATS)
@pytest.mark.parametrize("k", [0, 5])
def test_opcheck(device, dtype, layout, k):
    """Schema, fake kernels (shapes, strides, symbolic sizes), autograd registration, of all four operators."""
    features, rois = scene(dtype, layout, k)
    features, rois = features.to(device), rois.to(device)
    channels_last = layout == "channels_last"
    grad = torch.rand(k, 3, 2, 3, device=device).to(dtype)
    _, argmax = torch.ops.fasterrcnn_ops.roi_pool_forward(features, rois, SCALE, 2, 3)
    for requires_grad in (False, True):
        features, grad = (t.detach().requires_grad_(requires_grad) for t in (features, grad))
        for name, arguments in {
            "roi_align_forward": (features, rois, SCALE, 2, 3, -1, True),
            "roi_align_backward": (grad, rois, SCALE, 2, 3, *SIZE, 2, False, channels_last),
            "roi_pool_forward": (features, rois, SCALE, 2, 3),
            "roi_pool_backward": (grad, rois, argmax, SCALE, 2, 3, *SIZE, channels_last),
        }.items():
            torch.library.opcheck(getattr(torch.ops.fasterrcnn_ops, name).default, arguments)


@pytest.mark.parametrize("layout", [*MEMORY_FORMATS, "sliced", "sliced_channels_last", "transposed", "expanded"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_fake_strides_are_the_real_ones(operator, layout):
    """What torch.compile believes of the memory format, for maps of every layout."""
    features, rois = scene(layout=layout if layout in MEMORY_FORMATS else "contiguous")
    features = {
        "sliced": lambda x: x[:, :, 1:, :-1],
        "sliced_channels_last": lambda x: x.to(memory_format=torch.channels_last)[:, :, 1:, :-1],
        "transposed": lambda x: x.transpose(2, 3),
        "expanded": lambda x: x[:, :1].expand(2, 4, 6, 7),
    }.get(layout, lambda x: x)(features)
    real = OPERATORS[operator](features, rois, (2, 3))
    with torch._subclasses.FakeTensorMode() as mode:
        fake = OPERATORS[operator](mode.from_tensor(features), mode.from_tensor(rois), (2, 3))
    assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)
    channels_last = layout in ("channels_last", "sliced_channels_last")
    assert real.is_contiguous(memory_format=torch.channels_last) == channels_last


# --- determinism -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("layout", MEMORY_FORMATS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_thread_count_changes_nothing(operator, dtype, layout):
    """Forward and backward, bitwise; many RoIs share every pixel, so that any other order of sums would show."""
    size = (2, 70, 9, 10)
    features = feature_map(size, seeded(0), dtype, layout).requires_grad_()
    rois = ordinary(100, size, seeded(1))

    def run():
        pooled = OPERATORS[operator](features, rois, 5)
        grad = feature_map(pooled.shape, seeded(2), dtype)
        return pooled.detach(), *torch.autograd.grad(pooled, features, grad)

    (first, first_grad), *others = support.at_thread_counts(run, (1, 2, 3))
    for pooled, grad in others:
        support.assert_bitwise_equal(pooled, first)
        support.assert_bitwise_equal(grad, first_grad)


@pytest.mark.parametrize("operator", OPERATORS)
def test_memory_format_changes_no_gradient(operator):
    """Both layouts add in the same order."""
    results = []
    for layout in MEMORY_FORMATS:
        features = feature_map((1, 70, 9, 10), seeded(0), layout=layout).requires_grad_()
        pooled = OPERATORS[operator](features, ordinary(40, (1, 70, 9, 10), seeded(1)), 5)
        grad = feature_map(pooled.shape, seeded(2))
        results.append((pooled.detach(), *torch.autograd.grad(pooled, features, grad)))
    for one, other in zip(*results, strict=True):
        support.assert_bitwise_equal(one + 0.0, other + 0.0)


@pytest.mark.parametrize("operator", OPERATORS)
def test_works_under_deterministic_algorithms(device, operator):
    features, rois = (t.to(device) for t in scene())
    features.requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        OPERATORS[operator](features, rois, 3).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert features.grad.abs().sum() > 0


# --- compile, autocast -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("layout", MEMORY_FORMATS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_compile(operator, layout, dynamic):
    """One graph, forward and backward, with the results of eager mode; also for a list of boxes."""
    torch._dynamo.reset()
    features, rois = scene(layout=layout)
    boxes = [rois[:2, 1:], rois[2:, 1:]]

    def model(features, rois, boxes):
        return OPERATORS[operator](features, rois, 3) * 2, OPERATORS[operator](features, boxes, (2, 3))

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    results = []
    for call in (model, compiled):
        leaf = features.clone().requires_grad_()
        first, second = call(leaf, rois, boxes)
        (first.square().sum() + second.sum()).backward()
        results.append((first.detach(), second.detach(), leaf.grad))
    for eager, from_graph in zip(*results, strict=True):
        support.assert_bitwise_equal(eager, from_graph)
        assert eager.stride() == from_graph.stride()


def test_compile_modules():
    torch._dynamo.reset()
    features, rois = scene()
    both = torch.nn.ModuleList([RoIAlign(3, SCALE, 2), RoIPool(3, SCALE)])
    compiled = torch.compile(lambda x, r: [module(x, r) for module in both], fullgraph=True, backend="aot_eager")
    for module, found in zip(both, compiled(features, rois), strict=True):
        support.assert_bitwise_equal(found, module(features, rois))


@pytest.mark.parametrize("dtype", HALF_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("operator", OPERATORS)
def test_autocast_keeps_the_dtype_of_features(operator, dtype):
    """Half features stay half beside float32 RoIs, float32 features stay float32, and neither gets other values."""
    features, rois = scene()
    for map_ in (features, features.to(dtype)):
        leaf = map_.clone().requires_grad_()
        with torch.autocast("cpu", dtype):
            pooled = OPERATORS[operator](leaf, rois, 3)
        pooled.sum().backward()
        assert leaf.grad.dtype == map_.dtype
        support.assert_bitwise_equal(pooled.detach(), OPERATORS[operator](map_, rois, 3))


# --- error messages --------------------------------------------------------------------------------------------------

FUNCTIONS = {"roi_align": roi_align, "roi_pool": roi_pool}


@pytest.mark.parametrize("index", [-1.0, 2.0, 1e8, -1e30, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_batch_index_out_of_range(name, index):
    features, rois = scene()
    rois[3, 0] = index
    with pytest.raises(RuntimeError, match=r"rois: row 3 has batch index \S+, expected one of the 2 images"):
        FUNCTIONS[name](features, rois, 2)
    with pytest.raises(RuntimeError, match=r"rois: row 3 has batch index"):
        torch.ops.fasterrcnn_ops.roi_align_backward(torch.ones(5, 3, 2, 2), rois, 1.0, 2, 2, *SIZE, -1, False, False)
    with pytest.raises(RuntimeError, match=r"rois: row 3 has batch index"):
        torch.ops.fasterrcnn_ops.roi_pool_backward(
            torch.ones(5, 3, 2, 2), rois, torch.zeros(5, 3, 2, 2, dtype=torch.int64), 1.0, 2, 2, *SIZE, False
        )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_images_but_rois(name):
    with pytest.raises(RuntimeError, match="row 0 has batch index 0, expected one of the 0 images"):
        FUNCTIONS[name](torch.empty(0, 3, 5, 5), torch.zeros(1, 5), 2)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("kind", [ValueError, AssertionError])
def test_boxes_of_wrong_shape(name, kind):
    """torchvision's callers catch AssertionError."""
    features, rois = scene()
    for boxes, found in ((rois[:, 1:], r"\[5, 4\]"), (rois[0], r"\[5\]"), (rois[None], r"\[1, 5, 5\]")):
        with pytest.raises(kind, match=rf"boxes: expected a tensor of shape \[K, 5\], got {found}"):
            FUNCTIONS[name](features, boxes, 2)
    with pytest.raises(kind, match=r"boxes\[1\]: expected shape \[L, 4\], got \[5, 5\]"):
        FUNCTIONS[name](features, [rois[:, 1:], rois], 2)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.complex64])
def test_wrong_dtypes(name, dtype):
    features, rois = scene()
    with pytest.raises(RuntimeError, match="input: expected dtype float16"):
        FUNCTIONS[name](features.to(dtype), rois, 2)
    with pytest.raises(RuntimeError, match="rois: expected dtype float16"):
        FUNCTIONS[name](features, rois.to(dtype), 2)
    with pytest.raises(TypeError, match=r"boxes\[0\]: expected a floating-point dtype"):
        FUNCTIONS[name](features, [rois[:, 1:].to(dtype)], 2)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_wrong_types(name):
    features, rois = scene()
    with pytest.raises(TypeError, match="boxes: expected a tensor or a list or tuple of tensors, got NoneType"):
        FUNCTIONS[name](features, None, 2)
    with pytest.raises(TypeError, match=r"boxes\[0\]: expected a tensor, got list"):
        FUNCTIONS[name](features, rois.tolist(), 2)
    for output_size in (2.0, "7", (2, 3.5), None):
        with pytest.raises(TypeError, match="output_size: expected whole numbers"):
            FUNCTIONS[name](features, rois, output_size)
    with pytest.raises(ValueError, match="output_size: expected an int or"):
        FUNCTIONS[name](features, rois, (1, 2, 3))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_wrong_rank_and_sizes(name):
    features, rois = scene()
    with pytest.raises(RuntimeError, match=r"input: expected shape \[N, C, H, W\], got \[3, 6, 7\]"):
        FUNCTIONS[name](features[0], rois, 2)
    for output_size in (0, (2, 0), (-1, 3), -(2**62)):
        with pytest.raises(RuntimeError, match="output_size: expected height and width >= 1, got"):
            FUNCTIONS[name](features, rois, output_size)
    with pytest.raises(RuntimeError, match=r"cannot allocate a result of shape \[.*1099511627776\], float32"):
        FUNCTIONS[name](features, rois, 2**40)


def test_wrong_arguments_of_the_backward_operators():
    _, rois = scene()
    grad, argmax = torch.ones(5, 3, 2, 2), torch.zeros(5, 3, 2, 2, dtype=torch.int64)
    ops = torch.ops.fasterrcnn_ops
    for wrong in (grad[:4], grad[:, :2], grad[..., :1], grad[0]):
        with pytest.raises(RuntimeError, match=r"grad: expected shape \[5, 3, 2, 2\], got"):
            ops.roi_align_backward(wrong, rois, 1.0, 2, 2, *SIZE, -1, False, False)
        with pytest.raises(RuntimeError, match=r"grad: expected shape \[5, 3, 2, 2\], got"):
            ops.roi_pool_backward(wrong, rois, argmax, 1.0, 2, 2, *SIZE, False)
    with pytest.raises(RuntimeError, match="argmax: expected dtype int64"):
        ops.roi_pool_backward(grad, rois, argmax.int(), 1.0, 2, 2, *SIZE, False)
    with pytest.raises(RuntimeError, match="argmax: expected the shape of grad"):
        ops.roi_pool_backward(grad, rois, argmax[:4], 1.0, 2, 2, *SIZE, False)
    with pytest.raises(RuntimeError, match="batch_size, channels, height, width: expected numbers >= 0"):
        ops.roi_align_backward(grad, rois, 1.0, 2, 2, 2, 3, -6, 7, -1, False, False)
