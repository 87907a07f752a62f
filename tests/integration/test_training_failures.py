"""Losses and gradients that are not finite: the error, and the batch that caused it, kept and run again."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rectangles import Rectangles
from small_training import CONFIG, WithBatchNorm, assert_same, run, small_model

from fasterrcnn.training.failure import NonFiniteError, load_failed_step


def test_nan_loss_is_an_error_that_says_so(tmp_path):
    model = small_model()
    with torch.no_grad():
        model.head.score.bias[1] = float("nan")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        FloatingPointError, match=r"loss of step 1 is not finite \(.*loss_classifier nan.*learning rate"
    ):
        run(tmp_path, model=model)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)
    assert [file.name for file in tmp_path.iterdir()] == ["failed_step_000001.pt"]


def test_the_batch_that_failed_can_be_run_again(tmp_path):
    """An image has a NaN: the file has its batch, and gives the same loss with the parameters from before."""

    class Damaged(Rectangles):
        def __getitem__(self, index):
            image, target = super().__getitem__(index)
            if index == 3:
                image[0, 5, 5] = float("nan")
            return image, target

    dataset, model, states = Damaged(6, 64), small_model(), {}

    def keep(step, losses):
        states[step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    with pytest.raises(NonFiniteError, match=r"The batch that caused it is in .*failed_step_000\d+\.pt$") as caught:
        run(tmp_path, replace(CONFIG, steps=3), dataset=dataset, model=model, on_step=keep)
    path = Path(str(caught.value).rpartition(" ")[2])
    failed = load_failed_step(path)
    assert path.name == f"failed_step_{failed.step:06d}.pt"
    assert f"step {failed.step} is not finite" in failed.message
    damaged = [index for index, image in enumerate(failed.images) if image.isnan().any()]
    assert len(damaged) == 1
    assert torch.equal(failed.targets[damaged[0]]["boxes"], dataset[3][1]["boxes"])
    assert math.isnan(failed.losses["loss"])
    if failed.step > 1:
        assert_same(failed.state, states[failed.step - 1])
    assert all(tensor.isfinite().all() for tensor in failed.state.values())
    again = failed.replay()
    assert again.keys() == failed.losses.keys() - {"loss"}
    assert again == pytest.approx({name: failed.losses[name] for name in again}, abs=0, rel=0, nan_ok=True)
    failed.images = [image.nan_to_num(0.5) for image in failed.images]
    assert all(map(math.isfinite, failed.replay().values()))


def test_a_failed_step_is_told_from_other_files(tmp_path):
    torch.save({"step": 1}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt is no failed step: expected the entries before, config, images"):
        load_failed_step(tmp_path / "other.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "other.pt").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"half\.pt cannot be read as a failed step"):
        load_failed_step(tmp_path / "half.pt")


def test_a_failed_step_changes_no_running_statistics(tmp_path):
    """BatchNorm takes notice of the images before their loss is known; a failure takes that back."""
    backbone = WithBatchNorm()
    model = small_model(backbone=backbone)
    with torch.no_grad():
        model.head.score.bias[1] = float("nan")
    before = backbone.norm.running_mean.clone()
    with pytest.raises(NonFiniteError):
        run(tmp_path, replace(CONFIG, freeze_bn=False), model=model)
    assert torch.equal(backbone.norm.running_mean, before)
    failed = load_failed_step(tmp_path / "failed_step_000001.pt")
    assert torch.equal(failed.state["extractor.norm.running_mean"], before)
    with pytest.raises(ValueError, match="backbone"):
        failed.build_model()
    assert failed.build_model(backbone=WithBatchNorm()).head.score.bias[1].isnan()


def test_infinite_gradient_is_an_error_that_says_so(tmp_path):
    model = small_model()
    model.rpn.loc.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(FloatingPointError, match="gradient of step 1 is not finite"):
        run(tmp_path, model=model)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
