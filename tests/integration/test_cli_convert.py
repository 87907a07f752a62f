"""Other projects' weights on the command line: ``fasterrcnn convert``, and ``fasterrcnn train --weights``."""

from __future__ import annotations

import torch
from typer.testing import CliRunner

from fasterrcnn import build, checkpoints, cli
from fasterrcnn.config import default_config


def run(*arguments, command="convert", code=0):
    result = CliRunner().invoke(cli.app, [command, *map(str, arguments)])
    assert result.exit_code == code, result.output + str(result.exception)
    return " ".join(result.output.split())


def test_convert(tmp_path):
    model = build("resnet50_c4", num_classes=2, backbone="tiny", anchor_sizes=(24, 48))
    torch.save({"model": {f"module.{name}": t for name, t in model.state_dict().items()}}, tmp_path / "a.pth")
    (tmp_path / "names.txt").write_text("cat\n\ndog\n")
    said = run(
        tmp_path / "a.pth",
        *("--system", "resnet50_c4", "--backbone", "tiny", "--class-names", tmp_path / "names.txt"),
        *("--set", "model.anchor_sizes=[24, 48]", "--out", tmp_path / "b.safetensors"),
    )
    assert "tensors loaded" in said
    assert "names begin with 'module.'" in said
    again = checkpoints.load_model(tmp_path / "b.safetensors")
    assert again.class_names == ("cat", "dog")
    assert again.arguments["anchor_sizes"] == (24, 48)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_detectron2_arguments_are_kept(tmp_path):
    arguments = {"anchor_rule": "centered", "roi_aligned": True, "inclusive": False, "backbone": "tiny"}
    model = build("resnet50_c4", num_classes=1, anchor_sizes=(24,), **arguments)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    run(
        tmp_path / "a.pth",
        *("--system", "resnet50_c4", "--backbone", "tiny", "--num-classes", 1, "--detectron2"),
        *("--set", "model.anchor_sizes=[24]", "--out", tmp_path / "b.safetensors"),
    )
    again = checkpoints.load_model(tmp_path / "b.safetensors")
    assert {key: again.arguments[key] for key in ("anchor_rule", "roi_aligned", "inclusive")} == {
        "anchor_rule": "centered",
        "roi_aligned": True,
        "inclusive": False,
    }
    image = torch.rand(3, 80, 80)
    assert again.roi_heads.pooler.aligned
    assert torch.equal(again.rpn.anchors.cell_anchors, model.rpn.anchors.cell_anchors)
    assert not (again.rpn.anchors.cell_anchors[:, :2] + again.rpn.anchors.cell_anchors[:, 2:]).any()
    assert len(again.detect([image], score_threshold=0.0)) == 1


def test_errors(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    common = ("--system", "classic_vgg16", "--backbone", "tiny", "--out", tmp_path / "b.safetensors")
    said = run(tmp_path / "a.pth", *common, "--num-classes", 1, code=2)
    assert "a.pth holds no whole detector" in said
    assert "--class-names" in run(tmp_path / "a.pth", *common, code=2)
    (tmp_path / "names.txt").write_text("cat\n")
    said = run(tmp_path / "a.pth", *common, "--num-classes", 2, "--class-names", tmp_path / "names.txt", code=2)
    assert "has 1 names for 2 classes" in said
    assert not (tmp_path / "b.safetensors").exists()


def test_training_from_weights_of_other_classes(tmp_path):
    torch.manual_seed(5)
    model = build("classic_vgg16", num_classes=7, backbone="tiny", **default_config("classic_vgg16", "tiny").model)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "a.pth")
    settings = {"train.steps": 1, "train.lr": 1e-12, "train.batch_size": 1, "train.warmup_steps": 0}
    settings |= {"train_images": 2, "eval_images": 1, "data.size": [64, 64], "min_size": 64, "max_size": 64}
    words = ["--weights", tmp_path / "a.pth", "--out", tmp_path / "run"]
    words += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    said = run("--system", "classic_vgg16", "--backbone", "tiny", *words, command="train", code=2)
    assert "the file is for 7 classes besides background, the detector has 3" in said
    said = run("--system", "classic_vgg16", "--backbone", "tiny", *words, "--new-predictors", command="train")
    assert "kept as they were: head.cls_loc.{weight, bias}, head.score.{weight, bias}" in said
    trained = checkpoints.load_model(tmp_path / "run" / "model.safetensors")
    assert trained.num_classes == 3
    torch.testing.assert_close(trained.rpn.conv1.weight, model.rpn.conv1.weight, rtol=0, atol=1e-6)
    # A run that goes on has weights of its own.
    (tmp_path / "a.pth").unlink()
    run("--system", "classic_vgg16", "--backbone", "tiny", *words, "--new-predictors", command="train")


def test_weights_the_run_would_remove_are_refused(tmp_path):
    """A new run removes what an earlier one left in its folder, but not before the weights to begin with are read."""
    best = tmp_path / "run" / "best.safetensors"
    best.parent.mkdir()
    checkpoints.save(build("classic_vgg16", num_classes=3, backbone="tiny"), best)
    (tmp_path / "broken.pth").write_bytes(b"none")
    words = ["--system", "classic_vgg16", "--backbone", "tiny", "--out", tmp_path / "run"]
    words += [word for setting in ("steps=1", "train_images=4", "eval_images=1") for word in ("--set", setting)]
    said = run(*words, "--weights", best, command="train", code=2)
    assert "best.safetensors would be replaced by this run" in said
    assert "broken.pth" in run(*words, "--weights", tmp_path / "broken.pth", command="train", code=2)
    assert [path.name for path in best.parent.iterdir()] == ["best.safetensors"]
