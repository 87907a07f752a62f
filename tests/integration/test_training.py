"""Training: it learns, it repeats, it resumes to the same numbers, and it says what is wrong."""

from __future__ import annotations

import io
import os
import signal
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from rectangles import Rectangles
from rich.console import Console
from small_training import CONFIG, WithBatchNorm, assert_same, run, small_model

import fasterrcnn
from fasterrcnn.checkpoints import load_model
from fasterrcnn.training.display import TrainingProgress
from fasterrcnn.training.loop import TrainConfig
from fasterrcnn.training.step import Stepper
from fasterrcnn_ops import box_iou


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Such small tensors gain nothing from more, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return run(tmp_path_factory.mktemp("uninterrupted"))


def test_batches_have_images_of_one_group(tmp_path):
    """Of six images in two groups, every pass has three batches; only the one of what is left over is mixed."""

    class Grouped(Rectangles):
        groups = (0, 1, 0, 1, 0, 1)
        read: ClassVar[list[int]] = []

        def __getitem__(self, index):
            self.read.append(index)
            return super().__getitem__(index)

    dataset = Grouped(6, 64)
    run(tmp_path, dataset=dataset)
    for epoch in (dataset.read[:6], dataset.read[6:]):
        assert sorted(epoch) == list(range(6))
        mixed = [dataset.groups[one] != dataset.groups[two] for one, two in zip(epoch[::2], epoch[1::2], strict=True)]
        assert sum(mixed) == 1


def test_learns_a_few_images_by_heart(tmp_path):
    """Every rectangle of four images is found with its class, nothing else is, and the file gives the same answers."""
    torch.use_deterministic_algorithms(True)
    try:
        dataset = Rectangles(4, 64)
        model = small_model()
        config = TrainConfig(steps=100, batch_size=4, lr=3e-3, warmup_steps=10, checkpoint_every=1000)
        history = run(tmp_path, config, dataset=dataset, model=model)[1]
    finally:
        torch.use_deterministic_algorithms(False)
    assert history[100]["loss"] < 0.1 * history[1]["loss"]
    assert set(history[1]) == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss"}
    images, targets = zip(*(dataset[i] for i in range(4)), strict=True)
    detections = model.detect(images, score_threshold=0.5)
    for found, target in zip(detections, targets, strict=True):
        assert len(found) == len(target["boxes"])
        best, match = box_iou(found.boxes, target["boxes"]).max(dim=1)
        assert sorted(match.tolist()) == list(range(len(found)))
        assert best.min() > 0.6
        assert torch.equal(found.labels, target["labels"][match])
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.class_names == dataset.class_names
    for found, again in zip(detections, loaded.detect(images, score_threshold=0.5), strict=True):
        assert torch.equal(found.boxes, again.boxes)
        assert torch.equal(found.scores, again.scores)


def test_same_seed_same_numbers(tmp_path, uninterrupted):
    parameters, history = run(tmp_path)
    assert_same(parameters, uninterrupted[0])
    assert history == uninterrupted[1]


@pytest.mark.parametrize("pooling", ["pool", "align"])
def test_deterministic_algorithms_suffice(tmp_path, pooling):
    """No operator of a step complains, and two runs agree bitwise, with either kind of pooling."""
    torch.use_deterministic_algorithms(True)
    try:
        first, again = (
            run(tmp_path / name, replace(CONFIG, steps=2), model=small_model(roi_pooling=pooling)) for name in "ab"
        )
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same(first[0], again[0])
    assert first[1] == again[1]


@pytest.mark.xdist_group("memory")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["classic_vgg16", "classic_resnet50"])
def test_gradients_at_full_size(name):
    """Every parameter of the published architectures gets a finite gradient that is not all zero."""
    torch.manual_seed(0)
    model = fasterrcnn.build(name, num_classes=3)
    model.freeze_bn()
    image, target = Rectangles(1, 300)[0]
    sum(model([image], [target]).values()).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


def test_other_seed_other_numbers(tmp_path, uninterrupted):
    assert run(tmp_path, replace(CONFIG, seed=4))[1] != uninterrupted[1]


def test_loading_in_other_processes_changes_nothing(tmp_path, uninterrupted):
    assert run(tmp_path, replace(CONFIG, num_workers=1))[1] == uninterrupted[1]


def test_resumes_to_the_same_numbers_after_a_crash(tmp_path, uninterrupted):
    """A crash in step 5 costs that step: the checkpoint of step 4 goes on to bitwise the same parameters."""

    def crash(step, losses):
        if step == 5:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path, on_step=crash)
    torch.rand(7)  # whatever state the generators are in
    parameters, history = run(tmp_path, model=small_model(seed=99))
    assert list(history) == [5, 6]
    assert history == {step: uninterrupted[1][step] for step in (5, 6)}
    assert_same(parameters, uninterrupted[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint.pt",
        "checkpoint_previous.pt",
        "model.safetensors",
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_saves_and_resumes(tmp_path, uninterrupted, number):
    """Ctrl-C or SIGTERM in step 3, between the checkpoints, finishes the step and saves it."""
    before = signal.getsignal(number)

    def interrupt(step, losses):
        if step == 3:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt, match="stopped after step 3"):
        run(tmp_path, on_step=interrupt)
    assert signal.getsignal(number) is before
    parameters, history = run(tmp_path, model=small_model(seed=99))
    assert list(history) == [4, 5, 6]
    assert_same(parameters, uninterrupted[0])


def test_a_finished_run_has_nothing_left_to_do(tmp_path, uninterrupted):
    run(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    parameters, history = run(tmp_path, model=small_model(seed=99))
    assert history == {}
    assert_same(parameters, uninterrupted[0])
    assert (tmp_path / "model.safetensors").exists()


def test_beginning_anew(tmp_path, uninterrupted):
    run(tmp_path)
    assert list(run(tmp_path, resume=False)[1]) == [1, 2, 3, 4, 5, 6]


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path, monkeypatch, uninterrupted):
    """The disk is full at the second checkpoint: the first is still there, and from it the run goes on."""
    save = torch.save

    def full_disk(state, file):
        if state["step"] == 4:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        save(state, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_disk)
        with pytest.raises(OSError, match=r"no checkpoint of step 4.*No space left.*last good checkpoint is .*\.pt"):
            run(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.pt", "model.safetensors"]
    parameters, history = run(tmp_path, model=small_model(seed=99))
    assert list(history) == [3, 4, 5, 6]
    assert_same(parameters, uninterrupted[0])


def test_another_configuration_does_not_resume(tmp_path):
    run(tmp_path, replace(CONFIG, steps=2))
    with pytest.raises(ValueError, match=r"lr: 0.001, now 0.01.*resume=False"):
        run(tmp_path, replace(CONFIG, steps=2, lr=0.01))


def test_other_images_do_not_resume(tmp_path):
    """A file that is missing since would change which images come in which step."""
    run(tmp_path, replace(CONFIG, steps=2))
    with pytest.raises(ValueError, match=r"images of the data set: 5, now 7"):
        run(tmp_path, replace(CONFIG, steps=2), dataset=Rectangles(7, 64))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half a zip"])
def test_damaged_checkpoint_is_named(tmp_path, content):
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint\.pt cannot be read as a checkpoint .*resume=False"):
        run(tmp_path, replace(CONFIG, steps=2))


def test_another_model_does_not_resume(tmp_path):
    run(tmp_path, replace(CONFIG, steps=2))
    with pytest.raises(ValueError, match=r"misshapen \(rpn.conv1.weight"):
        run(tmp_path, replace(CONFIG, steps=2), model=small_model(rpn_channels=64))


@pytest.mark.parametrize("frozen", [True, False])
def test_batch_norm_learns_where_it_is_not_frozen(tmp_path, frozen):
    backbone = WithBatchNorm()
    run(tmp_path, replace(CONFIG, steps=1, freeze_bn=frozen), model=small_model(backbone=backbone))
    assert backbone.norm.running_mean.any() == (not frozen)


def test_frozen_parameters_stay(tmp_path):
    model = small_model()
    frozen = [model.extractor[0][0].weight, model.extractor[1][0].weight]
    for parameter in frozen:
        parameter.requires_grad_(False)
    before = [parameter.clone() for parameter in frozen]
    free = model.rpn.conv1.weight.clone()
    run(tmp_path, replace(CONFIG, steps=2, weight_decay=0.5), model=model)
    assert all(torch.equal(parameter, was) for parameter, was in zip(frozen, before, strict=True))
    assert not torch.equal(model.rpn.conv1.weight, free)


def test_gradients_are_clipped():
    """With SGD without momentum or decay, the first update is as long as the rate times the bound."""
    dataset = Rectangles(2, 64)
    images, targets = zip(*(dataset[i] for i in range(2)), strict=True)
    moved = {}
    for bound in (0.25, 0.5, None):
        model = small_model()
        before = [parameter.detach().clone() for parameter in model.parameters()]
        config = TrainConfig(
            steps=1, optimizer="sgd", momentum=0, weight_decay=0, lr=0.5, warmup_steps=0, schedule="constant",
            clip_grad_norm=bound,
        )  # fmt: skip
        Stepper(model.train(), config, 1)(list(images), list(targets), 0)
        steps = [now.detach() - was for now, was in zip(model.parameters(), before, strict=True)]
        moved[bound] = float(torch.cat([step.flatten() for step in steps]).norm())
    assert moved[0.25] == pytest.approx(0.5 * 0.25, rel=1e-3)
    assert moved[0.5] == pytest.approx(0.5 * 0.5, rel=1e-3)
    assert moved[None] > 0.5


@pytest.mark.parametrize("system", ["classic_vgg16", "resnet50_c4_sigmoid", "resnet50_c4", "stepwise_vgg16"])
def test_mixed_precision_on_the_cpu(tmp_path, system):
    """bfloat16: losses near those of float32 but not the same, parameters float32, and repeatable."""
    config, models = replace(CONFIG, steps=2), []
    size = {"image_size": (64, 64)} if system == "stepwise_vgg16" else {"min_size": 64, "max_size": 64}
    for precision in ("float32", "bfloat16", "bfloat16"):
        torch.manual_seed(1)  # a seed with which rounding changes no sample
        model = fasterrcnn.build(
            system, num_classes=3, backbone="tiny", rpn_post_nms_top_n=(50, 30), roi_samples=16, **size
        )
        history = run(
            tmp_path / str(len(models)), replace(config, precision=precision), model=model, dataset=Rectangles(4, 64)
        )[1]
        models.append((history, model))
    exact, mixed, again = (history for history, _ in models)
    assert mixed == again
    assert mixed[1] != exact[1]
    # The second stage samples among other proposals than the exact run's, so its losses need not be close.
    for name in ("loss_objectness", "loss_rpn_box_reg"):
        assert mixed[1][name] == pytest.approx(exact[1][name], rel=0.1, abs=0.02)
    assert {parameter.dtype for parameter in models[1][1].parameters()} == {torch.float32}


def test_half_precision_needs_a_card(tmp_path):
    with pytest.raises(ValueError, match="'float16' needs CUDA, the model is on cpu; 'bfloat16' runs there"):
        run(tmp_path, replace(CONFIG, precision="float16"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_mixed_precision_on_a_card(tmp_path, precision):
    exact = run(tmp_path / "a", model=small_model().cuda())[1]
    mixed = run(tmp_path / "b", replace(CONFIG, precision=precision), model=small_model().cuda())[1]
    assert mixed[6] == pytest.approx(exact[6], rel=0.2, abs=0.05)


def test_evaluating_on_the_way_changes_nothing(tmp_path, uninterrupted):
    model = small_model()
    image = Rectangles(1, 64)[0][0]
    parameters, history = run(tmp_path, model=model, on_step=lambda *_: model.detect([image]))
    assert history == uninterrupted[1]
    assert_same(parameters, uninterrupted[0])


def test_the_bar_shows_every_loss_and_the_rate():
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=200)
    losses = {"loss_objectness": 0.25, "loss_box_reg": 1.5, "loss": 1.75}
    with TrainingProgress(True, console) as bar:
        bar.update(bar.add_task("training", total=10), completed=3)
        bar.report(losses, 2e-3)
        bar.refresh()
    assert "3/10" in text.getvalue()
    assert "loss 1.750 = objectness 0.250 + box_reg 1.500, rate 2.0e-03" in text.getvalue()
    silent = io.StringIO()
    with TrainingProgress(True, Console(file=silent, force_terminal=False)) as bar:
        bar.report(losses, 2e-3)
    assert silent.getvalue().strip() == ""


def test_images_without_objects(tmp_path):
    class Empty(Rectangles):
        def __getitem__(self, index):
            return super().__getitem__(index)[0], {
                "boxes": torch.zeros(0, 4),
                "labels": torch.zeros(0, dtype=torch.int64),
            }

    history = run(tmp_path, replace(CONFIG, steps=2), dataset=Empty(2, 64))[1]
    assert history[1]["loss_rpn_box_reg"] == history[1]["loss_box_reg"] == 0
    assert history[1]["loss_classifier"] > 0


def test_epochs_see_every_image_in_changing_order(tmp_path):
    seen = []

    class Watched(Rectangles):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    run(tmp_path, TrainConfig(epochs=3, batch_size=2), dataset=Watched(4, 48))
    passes = [seen[i : i + 4] for i in range(0, 12, 4)]
    assert len(seen) == 12
    assert all(sorted(order) == [0, 1, 2, 3] for order in passes)
    assert len({tuple(order) for order in passes}) > 1


def test_too_small_a_dataset(tmp_path):
    with pytest.raises(ValueError, match="1 images, fewer than the batch size 2"):
        run(tmp_path, dataset=Rectangles(1))
