"""What a training may do besides: average its weights, stop early; each also after an interruption."""

from __future__ import annotations

import pytest
import torch
from rectangles import Rectangles

import fasterrcnn
from fasterrcnn.checkpoints import load_model
from fasterrcnn.training.average import MovingAverage
from fasterrcnn.training.checkpoint import read_checkpoint
from fasterrcnn.training.loop import TrainConfig, train

SIZES = {"rpn_post_nms_top_n": (50, 30), "roi_samples": 16, "min_size": None, "max_size": None}


def small_model():
    torch.manual_seed(0)
    return fasterrcnn.build("classic_vgg16", num_classes=3, backbone="tiny", **SIZES)


def run(out_dir, *, scores=(), crash_at=None, **settings):
    """Trains; returns the model, the number of steps, and what the evaluations saw."""
    config = TrainConfig(**{"steps": 6, "batch_size": 1, "warmup_steps": 1, "checkpoint_every": 2, **settings})
    model, scores, seen = small_model(), dict(scores), {}

    def evaluate(step):
        seen[step] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        return scores.get(step, 0.0)

    def on_step(step, losses):
        if step == crash_at:
            raise RuntimeError("power cut")

    dataset = Rectangles(3, 64)
    options = {"evaluate": evaluate, "evaluate_every": 1, "on_step": on_step, "progress": False}
    return model, train(model, dataset, out_dir, config, **options).steps, seen


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_moving_average():
    """Against the formula, with decays 2/11, 3/12 and then 0.25."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    average = MovingAverage(model, 0.25)
    expected = 1.0
    for value, decay in ((2.0, 2 / 11), (3.0, 0.25), (5.0, 0.25)):
        torch.nn.init.constant_(model.weight, value)
        average.update(model)
        expected = decay * expected + (1 - decay) * value
    with average.applied(model):
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 5.0


def test_the_average_is_evaluated_and_saved(tmp_path):
    """The weights of the training are not touched; those in use are the average, also after a crash."""
    plain = run(tmp_path / "plain")
    model, _, seen = run(tmp_path / "averaged", ema_decay=0.5)
    saved = load_model(tmp_path / "averaged" / "model.safetensors").state_dict()
    assert_same(model.state_dict(), saved)
    state = read_checkpoint(tmp_path / "averaged" / "checkpoint.pt")
    assert_same(state["model"], plain[0].state_dict())
    assert_same(state["average"]["average"], saved)
    average = MovingAverage(small_model(), 0.5)
    for step in (1, 2, 3):
        now = small_model()
        now.load_state_dict(plain[2][step])
        average.update(now)
        assert_same(seen[step], average.average)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "crash", ema_decay=0.5, crash_at=5)
    again = run(tmp_path / "crash", ema_decay=0.5)
    assert list(again[2]) == [5]
    assert_same(again[0].state_dict(), saved)


def test_stopping_early(tmp_path):
    """Two evaluations without a better one end it, also when they are of different runs; and then it is over."""
    scores = {1: 0.3, 2: 0.5, 3: 0.4, 4: 0.5}
    _, steps, seen = run(tmp_path / "whole", scores=scores, patience=2)
    assert (steps, list(seen)) == (4, [1, 2, 3, 4])
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "crash", scores=scores, patience=2, crash_at=4, checkpoint_every=1)
    model, steps, seen = run(tmp_path / "crash", scores=scores, patience=2, checkpoint_every=1)
    assert (steps, list(seen)) == (4, [4])
    assert_same(model.state_dict(), load_model(tmp_path / "whole" / "model.safetensors").state_dict())
    _, steps, seen = run(tmp_path / "crash", scores=scores, patience=2, checkpoint_every=1)
    assert (steps, list(seen)) == (4, [])


def test_other_parts_of_the_same_step_go_on(tmp_path):
    """A run with batches of 2 goes on with 2 parts of 1; with 3 images a step it does not."""
    settings = {"batch_size": 2, "steps": 2}
    model, *_ = run(tmp_path / "whole", **settings)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "parts", **settings, checkpoint_every=1, crash_at=2)
    again, *_ = run(tmp_path / "parts", batch_size=1, accumulate=2, steps=2, checkpoint_every=1)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="images per step: 2, now 3"):
        run(tmp_path / "parts", batch_size=3, steps=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"accumulate": 0}, "accumulate must be at least 1"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"ema_decay": 1.0}, "ema_decay must be in 0…1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(steps=1, **settings)
