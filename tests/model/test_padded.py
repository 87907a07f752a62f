"""Fixed capacity from images to detections: what detect gives, and nothing read back on the way."""

from __future__ import annotations

import pytest
import torch
from padded_cases import BATCHES, CASES, padded_batch, tiny
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fasterrcnn.image_batch import scale_boxes
from fasterrcnn.padded import proposals_as_detections, unpadded
from fasterrcnn.rpn import AnchorGrid
from fasterrcnn.types import ImageBatch, PaddedDetections, Proposals
from fasterrcnn_ops import nms
from fasterrcnn_ops.reference.detections import select_detections
from fasterrcnn_ops.reference.proposals import generate_proposals


@pytest.fixture(scope="module", params=CASES)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return tiny(request.param)


def assert_same(found: PaddedDetections, expected: PaddedDetections) -> None:
    for name, ours, theirs in zip(found._fields, found, expected, strict=True):
        assert torch.equal(ours, theirs), name


def assert_well_formed(found: PaddedDetections, sizes: Tensor, capacity: int) -> None:
    boxes, labels, scores, count = found
    used = torch.arange(capacity) < count[:, None]
    assert (boxes.shape, labels.shape, scores.shape) == ((len(sizes), capacity, 4), used.shape, used.shape)
    assert (labels.dtype, count.dtype) == (torch.int64, torch.int64)
    assert torch.equal(labels > 0, used)
    assert not boxes[~used].any()
    assert not scores[~used].any()
    assert (scores.diff(dim=1) <= 0).all()
    assert (boxes >= 0).all()
    assert (boxes <= sizes.flip(1).repeat(1, 2)[:, None]).all()


def test_shapes_and_unused_slots(model):
    images, sizes = BATCHES[0]
    capacity = model.rpn.proposal_layer.post_nms_top_n[1] if model.roi_heads is None else 100
    found = model.forward_padded(images, sizes)
    assert isinstance(found, PaddedDetections)
    assert_well_formed(found, sizes, capacity)
    assert found.count.min() > 0
    assert not any(tensor.requires_grad for tensor in found)


@pytest.mark.parametrize("options", [{}, {"score_threshold": 0.1, "nms_threshold": 0.2, "max_detections": 7}])
def test_detect_is_a_thin_form_of_it(model, options):
    """Images of three sizes: resized and padded here, boxes taken back here."""
    images = [torch.rand(3, 64, 90), torch.rand(3, 120, 80), torch.rand(3, 50, 50)]
    batch = model.batcher.collate(images)
    found = model.forward_padded(batch.images, batch.image_sizes(), batch.image_scales(), **options)
    for index, (detections, image) in enumerate(zip(model.detect(images, **options), images, strict=True)):
        count = int(found.count[index])
        assert len(detections) == count > 0
        assert torch.equal(detections.labels, found.labels[index, :count])
        assert torch.equal(detections.scores, found.scores[index, :count])
        height, width = batch.sizes[index]
        ratio = torch.tensor([image.shape[2] / width, image.shape[1] / height]).repeat(2)
        torch.testing.assert_close(detections.boxes, found.boxes[index, :count] * ratio)


def test_image_by_image_by_the_definitions(model):
    """The stages after the convolutions, one image at a time, lists instead of slots."""
    images, sizes = BATCHES[0]
    found = model.forward_padded(images, sizes)
    layer, output_layer = model.rpn.proposal_layer, model.detection_layer
    with torch.no_grad():
        features = model.features(model.batcher.normalize(images, sizes))
        output = model.rpn.predict(features)
    proposals = model.rpn.propose(output, sizes, training=False)
    for index in range(len(images)):
        boxes, _, count = generate_proposals(
            [output.objectness_map[index : index + 1]],
            [output.delta_map[index : index + 1]],
            [model.rpn.anchors.cell_anchors],
            [model.rpn.anchors.stride],
            sizes[index : index + 1],
            pre_nms_top_n=layer.pre_nms_top_n[1],
            post_nms_top_n=layer.post_nms_top_n[1],
            nms_threshold=layer.nms_threshold,
            min_size=layer.min_size,
            weights=layer.coder.weights,
            anchor_offset=model.rpn.anchors.offset,
            inclusive=layer.coder.inclusive,
            inclusive_sides=layer.inclusive_sides,
            filter_before_topk=layer.filter_before_top_k,
        )
        assert proposals.count[index] == count[0] > 0
        torch.testing.assert_close(proposals.boxes[index], boxes[0])
        if model.roi_heads is None:
            assert torch.equal(found.boxes[index], proposals.boxes[index])
            assert torch.equal(found.scores[index], proposals.scores[index])
            continue
        with torch.no_grad():
            pooled = model.roi_heads.pool_proposals(features, proposals, images.shape[2:])
            logits, deltas = model.roi_heads.predict(pooled)
        rows = slice(index * boxes.shape[1], index * boxes.shape[1] + int(count))
        expected = select_detections(
            logits[None, rows],
            deltas[None, rows],
            proposals.boxes[index : index + 1, : int(count)],
            count,
            sizes[index : index + 1],
            score_threshold=output_layer.score_threshold,
            nms_threshold=output_layer.nms_threshold,
            max_detections=output_layer.max_detections,
            weights=output_layer.coder.weights,
            inclusive=output_layer.coder.inclusive,
            candidates_per_class=output_layer.candidates_per_class,
        )
        assert found.count[index] == expected[3][0]
        assert torch.equal(found.labels[index], expected[1][0])
        torch.testing.assert_close(found.boxes[index], expected[0][0])
        torch.testing.assert_close(found.scores[index], expected[2][0])


@pytest.mark.parametrize("content", [0.0, 1e30, float("nan")])
def test_the_content_of_the_padding_is_irrelevant(model, content):
    images, sizes = BATCHES[0]
    other = images.clone()
    other[1, :, 80:], other[1, :, :, 100:] = content, content
    assert not torch.equal(other, images)
    assert_same(model.forward_padded(other, sizes), model.forward_padded(images, sizes))


def test_images_of_a_batch_do_not_see_each_other(model):
    images, sizes = padded_batch([(96, 128), (80, 100), (50, 60)])
    before = model.forward_padded(images, sizes)
    images[1], sizes[1] = torch.rand(3, 96, 128), torch.tensor([60, 128])
    after = model.forward_padded(images, sizes)
    for ours, theirs in zip(before, after, strict=True):
        assert torch.equal(ours[[0, 2]], theirs[[0, 2]])
    assert not torch.equal(before.boxes[1], after.boxes[1])


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32, torch.float64])
def test_sizes_of_any_dtype(model, dtype):
    images, sizes = BATCHES[0]
    assert_same(model.forward_padded(images, sizes.to(dtype)), model.forward_padded(images, sizes))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("none", [{"rpn_min_size": 1000.0}, {"score_threshold": 1.0}])
def test_nothing_found_is_count_0(case, none):
    """No proposals, or none that is good enough: not even the classic family fills slots here."""
    model = tiny(case, **none)
    images, sizes = BATCHES[0]
    found = model.forward_padded(images, sizes, **({"score_threshold": 1.0} if case == "rpn_only" else {}))
    assert found.count.tolist() == [0, 0]
    assert not any(tensor.any() for tensor in found)
    assert [len(d) for d in model.detect(list(images), score_threshold=1.0)] == [0, 0]


def test_scales_are_for_the_smallest_side_of_the_classic_family_alone(model):
    """Enlarged a thousandfold, an image of 128 pixels has no side of 8 · 1000 pixels; None means 1."""
    images, sizes = BATCHES[0]
    one, large = torch.ones(2), torch.tensor([1.0, 1000.0])
    plain = model.forward_padded(images, sizes)
    assert_same(model.forward_padded(images, sizes, one), plain)
    scaled = model.forward_padded(images, sizes, large)
    classic = model.rpn.proposal_layer.scale_min_size
    assert classic == model.system.startswith("classic")
    assert (scaled.count[1] == 0) == classic
    for ours, theirs in zip(scaled, plain, strict=True):
        assert torch.equal(ours[0], theirs[0])


def test_copies_for_inference(model):
    images, sizes = BATCHES[0]
    for dtype in (torch.float32, torch.bfloat16):
        fast = model.optimize_for_inference(dtype)
        cells = fast.rpn.anchors.cell_anchors
        assert torch.equal(cells, model.rpn.anchors.cell_anchors)
        found = fast.forward_padded(images, sizes)
        assert_well_formed(found, sizes, found.labels.shape[1])
        assert found.count.min() > 0


def test_training_mode_is_refused(model):
    with pytest.raises(ValueError, match=r"evaluation mode: call eval\(\) first"):
        tiny("resnet50_c4").train().forward_padded(*BATCHES[0])


IMAGES, SIZES = BATCHES[0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((IMAGES[0], SIZES), ValueError, r"images: expected shape \[B, 3, H, W\], got \[3, 96, 128\]"),
        ((IMAGES[:, :1], SIZES), ValueError, r"images: expected shape .*, got \[2, 1, 96, 128\]"),
        ((IMAGES.byte(), SIZES), TypeError, r"images: expected floats in 0–1, got torch.uint8"),
        ((IMAGES, SIZES.tolist()), TypeError, "image_sizes: expected a tensor, got list"),
        ((IMAGES, SIZES[:1]), ValueError, r"image_sizes: expected shape \[2, 2\], got \[1, 2\]"),
        ((IMAGES, SIZES[0]), ValueError, r"image_sizes: expected shape \[2, 2\], got \[2\]"),
        ((IMAGES, SIZES, torch.ones(1)), ValueError, r"scales: expected shape \[2\], got \[1\]"),
        ((IMAGES, SIZES, 1.0), TypeError, "scales: expected a tensor, got float"),
        ((IMAGES, SIZES.to("meta")), ValueError, "image_sizes: expected on cpu, where the images are, got meta"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        tiny("classic_vgg16").forward_padded(*arguments)


def test_a_negative_number_of_detections_is_refused(model):
    with pytest.raises(ValueError, match="max_detections must not be negative, got -1"):
        model.forward_padded(IMAGES, SIZES, max_detections=-1)


# Nothing is read back, and nothing comes from the host.


class Reads(TorchDispatchMode):
    """Notes the operations that wait for a device, or bring a tensor from the host, if the device is a card."""

    NAMES = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "unique",
        "lift_fresh",
        "is_nonzero",
        "bincount",
    )

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name.startswith(self.NAMES) or (name == "index" and _has_mask(args[1])):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def _has_mask(indices: list[Tensor | None]) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


@pytest.mark.parametrize(
    "reads",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0.5],
        lambda x: (x > 0.5).nonzero(),
        lambda x: x * torch.tensor([1.0, 2.0]),
        lambda x: x[: int(x.sum())],
        lambda x: nms(torch.zeros(2, 4), x, 0.5)[x.argmax()].item(),
    ],
)
def test_a_read_would_be_noticed(reads):
    x = torch.ones(2)
    with Reads() as mode:
        reads(x)
    assert mode.found


def test_nothing_is_read_back(model):
    images, sizes = BATCHES[0]
    scales = torch.ones(2)
    with Reads() as mode, torch.no_grad():
        model.forward_padded(images, sizes, scales, nms_threshold=0.4, score_threshold=0.1, max_detections=9)
    assert mode.found == []


def test_scaling_boxes_takes_nothing_from_the_host():
    boxes = torch.tensor([[1.0, 2, 3, 4]])
    with Reads() as mode:
        scaled = scale_boxes(boxes, (10, 20), (30, 20))
    assert mode.found == []
    assert scaled.tolist() == [[1, 6, 3, 12]]


@pytest.mark.parametrize("case", CASES)
def test_it_runs_where_there_are_no_values(case):
    """On the meta device reading fails, also by tolist(), which no dispatcher sees on the CPU."""
    images, sizes, scales = (tensor.to("meta") for tensor in (*BATCHES[0], torch.ones(2)))
    with pytest.raises((RuntimeError, NotImplementedError)):
        sizes.tolist()
    found = tiny(case).to("meta").forward_padded(images, sizes, scales, nms_threshold=0.4, max_detections=9)
    assert found.boxes.shape == (2, 9, 4)
    assert all(tensor.is_meta for tensor in found)


# The parts.


def proposals_of_two() -> Proposals:
    """The second of the first image overlaps the first by 0.5, the third by 0.9; the other image has one."""
    boxes = torch.zeros(2, 4, 4)
    boxes[0, :3] = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 9.0]])
    boxes[1, 0] = torch.tensor([0, 0, 10, 9.5])
    return Proposals(boxes, torch.tensor([[0.9, 0.8, 0.3, 0], [0.5, 0, 0, 0]]), torch.tensor([3, 1]))


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, ([0, 1, 2], [0])),
        ({"score_threshold": 0.5}, ([0, 1], [])),
        ({"nms_threshold": 0.7}, ([0, 1], [0])),
        ({"nms_threshold": 0.4}, ([0], [0])),
        ({"nms_threshold": 0.4, "score_threshold": 0.9}, ([], [])),
        ({"max_detections": 1}, ([0], [0])),
        ({"nms_threshold": 0.95, "max_detections": 99}, ([0, 1, 2], [0])),
        ({"max_detections": 0}, ([], [])),
    ],
)
def test_proposals_as_detections(options, kept):
    proposals = proposals_of_two()
    found = proposals_as_detections(proposals, **options)
    capacity = min(4, options.get("max_detections", 4))
    assert found.labels.shape == (2, capacity)
    assert found.count.tolist() == [len(index) for index in kept]
    for image, index in enumerate(kept):
        assert torch.equal(found.boxes[image, : len(index)], proposals.boxes[image, index])
        assert torch.equal(found.scores[image, : len(index)], proposals.scores[image, index])
        assert found.labels[image].tolist() == [1] * len(index) + [0] * (capacity - len(index))
        assert not found.boxes[image, len(index) :].any()


def test_nms_of_proposals_is_nms_of_each_image():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(3, 200, 2, generator=generator) * 80
    boxes = torch.cat([corner, corner + 10 + 30 * torch.rand(3, 200, 2, generator=generator)], dim=2)
    scores = torch.rand(3, 200, generator=generator).sort(dim=1, descending=True).values
    count = torch.tensor([200, 0, 77])
    used = torch.arange(200) < count[:, None]
    found = proposals_as_detections(
        Proposals(torch.where(used[..., None], boxes, 0.0), torch.where(used, scores, 0.0), count), nms_threshold=0.3
    )
    for image, number in enumerate(count.tolist()):
        keep = nms(boxes[image, :number], scores[image, :number], 0.3)
        assert found.count[image] == len(keep)
        assert torch.equal(found.boxes[image, : len(keep)], boxes[image, keep])


def test_unpadded_goes_back_to_each_original():
    """Twice and half as large; clipped to the original, and slots beyond the count are left out."""
    boxes = torch.tensor([[[0, 10, 20, 30], [5, 5, 300, 300]], [[1, 2, 3, 4], [9, 9, 9, 9.0]]])
    padded = PaddedDetections(
        boxes, torch.tensor([[2, 1], [3, 0]]), torch.tensor([[0.9, 0.5], [0.4, 0]]), torch.tensor([2, 1])
    )
    batch = ImageBatch(torch.zeros(2, 3, 100, 200), [(100, 200), (50, 60)], [(50, 100), (100, 120)], [2.0, 0.5])
    first, second = unpadded(padded, batch)
    assert first.boxes.tolist() == [[0, 5, 10, 15], [2.5, 2.5, 100, 50]]
    assert first.labels.tolist() == [2, 1]
    assert second.boxes.tolist() == [[2, 4, 6, 8]]
    assert second.scores.tolist() == pytest.approx([0.4])


def test_anchors_go_where_the_model_goes_and_stay_what_they_are():
    grid = AnchorGrid([32, 100], [0.5, 1, 2], 16)
    cells = grid.cell_anchors.clone()
    parent = nn.Sequential(grid, nn.Linear(2, 2))
    assert list(parent.state_dict()) == ["1.weight", "1.bias"]
    for dtype in (torch.bfloat16, torch.float64, torch.float32):
        assert torch.equal(parent.to(dtype)[0].cell_anchors, cells)
    assert parent.to("meta")[0].cell_anchors.is_meta
    assert torch.equal(parent.to_empty(device="cpu")[0].cell_anchors, cells)
    assert len(grid) == 6
