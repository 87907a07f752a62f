"""How the systems behave, with the tiny trunk, and their arguments.

Rules and shapes of the C4 systems are in test_c4_rules.py; the classic systems have test_classic_shapes.py, the
step-by-step one test_stepwise.py.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fasterrcnn
from fasterrcnn.build import SYSTEMS

CLASSES = 20
C4 = ("resnet50_c4_sigmoid", "resnet50_c4")
LOSSES = ["loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"]
TARGETS = [
    {"boxes": torch.tensor([[5.0, 5, 60, 50]]), "labels": torch.tensor([2])},
    {"boxes": torch.tensor([[10.0, 20, 60, 70], [40, 5, 90, 60]]), "labels": torch.tensor([1, 2])},
]


def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 64, 80, generator=generator), torch.rand(3, 90, 100, generator=generator)]


def on_meta(name: str, **overrides) -> nn.Module:
    with torch.device("meta"):
        return fasterrcnn.build(name, num_classes=CLASSES, **overrides)


def tiny(name: str, **overrides) -> nn.Module:
    torch.manual_seed(0)
    small = {"image_size": (96, 96)} if name == "stepwise_vgg16" else {"min_size": 64}
    return fasterrcnn.build(name, num_classes=2, backbone="tiny", **{**small, **overrides})


@pytest.mark.parametrize("name", SYSTEMS)
def test_anchors_are_never_stored(name):
    state = on_meta(name).state_dict()
    assert not [n for n in state if "anchor" in n]
    assert isinstance(on_meta(name).rpn.anchors.cell_anchors, torch.Tensor)


# Behaviour, with the tiny trunk.


@pytest.mark.parametrize("name", SYSTEMS)
def test_training_form(name):
    model = tiny(name)
    losses = model(images(), TARGETS)
    assert list(losses) == LOSSES
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", SYSTEMS)
def test_training_without_targets(name):
    with pytest.raises(ValueError, match="in training mode targets are needed"):
        tiny(name)(images())


@pytest.mark.parametrize("name", SYSTEMS)
def test_losses_are_seeded(name):
    assert tiny(name)(images(), TARGETS) == tiny(name)(images(), TARGETS)


@pytest.mark.parametrize("name", SYSTEMS)
def test_images_without_objects(name):
    """Nothing to find is something to learn from."""
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = tiny(name)(images(), [none, none])
    assert losses["loss_objectness"] > 0
    assert losses["loss_rpn_box_reg"] == losses["loss_box_reg"] == 0


@pytest.mark.parametrize("name", SYSTEMS)
def test_testing_form(name):
    model = tiny(name, score_threshold=0.0, max_detections=30).eval()
    found = model(images())
    assert len(found) == 2
    for detections, image in zip(found, images(), strict=True):
        assert 0 < len(detections) <= 30
        assert set(detections.labels.tolist()) <= {1, 2}
        assert (detections.scores.diff() <= 0).all()
        height, width = image.shape[1:]
        assert (detections.boxes >= 0).all()
        assert (detections.boxes <= torch.tensor([width, height, width, height])).all()


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_few_steps_reduce_the_loss(name):
    model = tiny(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    totals = []
    for step in range(12):
        model.generator.manual_seed(step % 2)
        total = sum(model(images(), TARGETS).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert sum(totals[-2:]) < 0.7 * sum(totals[:2])


@pytest.mark.parametrize("name", C4)
def test_rpn_only(name):
    model = tiny(name, rpn_only=True)
    assert model.roi_heads is None
    assert not [n for n in model.state_dict() if n.startswith("roi_heads")]
    losses = model(images(), TARGETS)
    assert list(losses) == LOSSES[:2]
    found = model.eval()(images())
    for detections, image in zip(found, images(), strict=True):
        assert len(detections) > 0
        assert (detections.labels == 1).all()
        assert (detections.scores.diff() <= 0).all()
        assert (detections.boxes[:, 2] <= image.shape[2]).all()
    few = model.detect(images(), score_threshold=0.0, nms_threshold=0.1, max_detections=3)
    assert max(len(detections) for detections in few) <= 3
    with pytest.raises(ValueError, match="a model without RoI heads has no classes"):
        model.detect_rows(images())


def test_rpn_only_says_what_the_detector_proposes():
    """The same RPN in both: proposals as detections are the detector's proposals, in pixels of the image."""
    whole, alone = tiny("resnet50_c4"), tiny("resnet50_c4", rpn_only=True)
    alone.load_state_dict({n: t for n, t in whole.state_dict().items() if not n.startswith("roi_heads")})
    with torch.no_grad():
        whole.eval()
        batch = whole.batcher(images())
        output = whole.rpn.predict(whole.backbone(batch.images))
        proposals = whole.rpn.propose(output, batch.sizes, batch.scales, training=False)
    for index, found in enumerate(alone.detect(images())):
        assert len(found) == proposals.count[index]
        torch.testing.assert_close(found.scores, proposals.scores[index, : len(found)])


def test_rows_are_the_detections():
    """−1 wherever there is none; row c·K + k otherwise, with the zero-based class and boxes in pixels of the image."""
    model = tiny("resnet50_c4_sigmoid", max_detections=10_000)
    slots = model.rpn.proposal_layer.post_nms_top_n[1]
    tables = model.detect_rows(images())
    for rows, found in zip(tables, model.detect(images()), strict=True):
        assert rows.ids.shape == rows.scores.shape == (2 * slots, 1)
        assert rows.boxes.shape == (2 * slots, 4)
        used = rows.ids[:, 0] >= 0
        assert 0 < used.sum() == len(found)
        assert (rows.ids[~used] == -1).all()
        assert (rows.scores[~used] == -1).all()
        assert (rows.boxes[~used] == -1).all()
        assert torch.equal(rows.ids[used, 0], (torch.arange(2 * slots) // slots)[used].float())
        order = rows.scores[used, 0].argsort(descending=True, stable=True)
        torch.testing.assert_close(rows.scores[used, 0][order], found.scores)
        assert torch.equal(rows.ids[used, 0].sort().values.long() + 1, found.labels.sort().values)
        ours, theirs = ({tuple(box) for box in boxes.tolist()} for boxes in (rows.boxes[used], found.boxes))
        assert ours == theirs


@pytest.mark.parametrize("name", C4)
def test_frozen_stages_do_not_move(name):
    model = tiny(name, frozen_stages=2)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    sum(model(images(), TARGETS).values()).backward()
    optimizer.step()
    still = {n for n, p in model.named_parameters() if torch.equal(p, before[n])}
    assert still >= {n for n in before if n.startswith(("backbone.body.0.", "backbone.body.1."))}
    assert "backbone.body.2.0.weight" not in still


# Arguments.


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("backbone", [None, "tiny"])
def test_default_arguments_are_what_build_uses(name, backbone):
    with torch.device("meta"):
        model = fasterrcnn.build(name, num_classes=1, backbone=backbone)
    arguments = fasterrcnn.default_arguments(name, backbone)
    assert arguments == model.arguments
    assert not {"num_classes", "backbone", "pretrained", "weights"} & arguments.keys()
    with torch.device("meta"):
        again = fasterrcnn.build(name, num_classes=1, backbone=backbone, **arguments)
    assert again.arguments == arguments
    assert again.system == name


def test_default_arguments_are_plain():
    def plain(value):
        return all(map(plain, value)) if isinstance(value, tuple) else isinstance(value, str | int | float | None)

    for name in SYSTEMS:
        assert all(map(plain, fasterrcnn.default_arguments(name).values()))


def test_overrides():
    model = tiny("resnet50_c4", nms_threshold=0.4)
    assert model.detection_layer.nms_threshold == 0.4
    assert fasterrcnn.default_arguments("resnet50_c4")["nms_threshold"] == 0.5
    with pytest.raises(TypeError, match="resnet50_c4 has no argument image_size; it has rpn_only, "):
        tiny("resnet50_c4", image_size=(3, 3))
    with pytest.raises(ValueError, match=r"unknown system 'resnet50_fpm'; known: classic_vgg16, .*stepwise_vgg16"):
        fasterrcnn.default_arguments("resnet50_fpm")


@pytest.mark.parametrize("name", [*C4, "stepwise_vgg16"])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1"),
        ({"backbone": "alexnet"}, ValueError, "unknown backbone 'alexnet'"),
        ({"backbone": nn.Identity()}, TypeError, "Identity is no backbone: it lacks out_channels, stride, roi_stage"),
        ({"pretrained": True, "weights": "x.pth"}, ValueError, "not both"),
        ({"frozen_stages": 5}, ValueError, r"frozen_stages must be 0…4 for Tiny, got 5"),
    ],
)
def test_bad_arguments(name, arguments, error, message):
    with pytest.raises(error, match=message):
        fasterrcnn.build(name, **{"num_classes": 2, "backbone": "tiny", **arguments})
