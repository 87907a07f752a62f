"""Configurations: every default visible, read back to the same, and nothing unknown accepted."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import tomlkit
from typer.testing import CliRunner

from fasterrcnn import cli
from fasterrcnn.build import SYSTEMS, default_arguments
from fasterrcnn.config import RunConfig, changed, default_config, parse_settings, read_config, to_toml
from fasterrcnn.training.run import build_detector
from fasterrcnn.training.schedule import TrainConfig

CASES = [(name, backbone, data) for name in SYSTEMS for backbone in ("tiny", None) for data in ("shapes", "scenes")]


@pytest.fixture
def config() -> RunConfig:
    return default_config("classic_vgg16", "tiny")


@pytest.mark.parametrize(("name", "backbone", "data"), CASES)
def test_round_trip(tmp_path, name, backbone, data):
    """What is printed reads back to the same, with and without comments; every key is there."""
    config = default_config(name, backbone, data)
    for comments in (True, False):
        (tmp_path / "config.toml").write_text(to_toml(config, comments=comments), encoding="utf-8")
        assert read_config(tmp_path / "config.toml") == config
    content = tomlkit.parse(to_toml(config)).unwrap()
    assert content["model"].keys() == default_arguments(name, backbone).keys()
    for section in ("train", "data", "eval"):
        assert list(content[section]) == [field.name for field in fields(getattr(config, section))]


def test_every_key_is_explained(config):
    """Each key has a comment, its own or one it shares with its neighbours."""
    explained = False
    for line in to_toml(config).splitlines():
        if line.startswith("#"):
            explained = True
        elif not line or line.startswith("["):
            explained = False
        else:
            assert explained, line


def test_changes_survive(tmp_path, config):
    """Values of every kind, None included."""
    other = changed(
        config,
        {
            "model": {"min_size": None, "anchor_scales": [1, 2.5], "roi_pooling": "pool", "rpn_channels": 32},
            "train": {"schedule": "multistep", "milestones": [10, 20], "clip_grad_norm": None, "freeze_bn": False},
            "data": {"size": [96, 128], "name": "scenes"},
            "eval": {"every_epochs": 2, "score_threshold": 0.25},
        },
    )
    assert other.model["min_size"] is None
    assert other.model["anchor_scales"] == (1, 2.5)
    assert other.train.milestones == (10, 20)
    (tmp_path / "c.toml").write_text(to_toml(other), encoding="utf-8")
    assert read_config(tmp_path / "c.toml") == other


def test_a_short_file_takes_the_defaults_of_its_system(tmp_path):
    (tmp_path / "c.toml").write_text('system = "resnet50_c4"\nbackbone = "tiny"\n[train]\nlr = 1\n', encoding="utf-8")
    default = default_config("resnet50_c4", "tiny")
    assert read_config(tmp_path / "c.toml") == replace(default, train=replace(default.train, lr=1.0))


def test_full_size_defaults_are_the_builders(config):
    for name in SYSTEMS:
        assert default_config(name).model == default_arguments(name)
    assert default_config("classic_vgg16").train.milestones == (60_000,)
    with pytest.raises(ValueError, match=r"unknown system 'clasic_vgg16'; did you mean classic_vgg16"):
        default_config("clasic_vgg16")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"learning_rate": 1}}, r"unknown key train\.learning_rate"),
        ({"train": {"warmup_step": 1}}, r"unknown key train\.warmup_step; did you mean warmup_steps"),
        ({"model": {"anchor_scale": [1]}}, r"unknown key model\.anchor_scale; did you mean anchor_scales"),
        ({"trian": {"lr": 1}}, r"unknown section \[trian\]; did you mean train"),
        ({"train": 3}, r"\[train\] must be a section"),
        ({"train": {"lr": "fast"}}, r"train\.lr must be a number, got 'fast'"),
        ({"train": {"lr": True}}, r"train\.lr must be a number, got True"),
        ({"train": {"lr": None}}, r'train\.lr must be a number, got "none"'),
        ({"train": {"batch_size": 2.5}}, r"train\.batch_size must be a whole number, got 2\.5"),
        ({"train": {"batch_size": True}}, r"train\.batch_size must be a whole number, got True"),
        ({"train": {"freeze_bn": 1}}, r"train\.freeze_bn must be true or false, got 1"),
        ({"train": {"steps": "many"}}, r"train\.steps must be a whole number or \"none\", got 'many'"),
        ({"train": {"milestones": [1, 2.5]}}, r"train\.milestones must be a whole number, got 2\.5"),
        ({"train": {"milestones": 3}}, r"train\.milestones must be a list of whole numbers, got 3"),
        ({"train": {"lr": -1}}, r"train: lr must be positive"),
        ({"train": {"optimizer": "sdg"}}, r"train: optimizer must be 'adamw' or 'sgd'"),
        ({"data": {"size": [1, 2, 3]}}, r"data\.size must be a list of 2 whole numbers"),
        ({"data": {"size": [10, 20]}}, r"data: size must be \[height, width\] of at least 64"),
        ({"data": {"name": "shape"}}, r"data: name: unknown data set 'shape'; known: shapes, scenes"),
        ({"eval": {"every_steps": 0}}, r"eval: every_steps must be at least 1"),
        ({"model": {"anchor_scales": 8}}, r"model\.anchor_scales must be a list of numbers, got 8"),
        ({"model": {"anchor_scales": ["a"]}}, r"model\.anchor_scales must be a list of numbers, got \['a'\]"),
        ({"model": {"rpn_samples": 1.5}}, r"model\.rpn_samples must be a whole number, got 1\.5"),
        ({"model": {"roi_pooling": 3}}, r"model\.roi_pooling must be a string, got 3"),
    ],
)
def test_refusals(config, changes, message):
    with pytest.raises(ValueError, match=message):
        changed(config, changes)


def test_what_the_system_refuses_is_said(config):
    wrong = changed(config, {"model": {"feat_stride": 8}})
    with pytest.raises(ValueError, match=r"model: classic_vgg16 cannot be built: feat_stride is 8"):
        build_detector(wrong, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the key system is missing"),
        ("system = 3", "the key system is missing"),
        ('system = "classic_vgg17"', "unknown system 'classic_vgg17'; did you mean classic_vgg16"),
        ('system = "classic_vgg16"\nbackbon = "tiny"', "unknown key backbon; did you mean backbone"),
        ('system = "classic_vgg16"\nbackbone = 3', "backbone must be a string"),
        ('system = "classic_vgg16"\n[data]\nname = "voc"', "unknown data set 'voc'"),
        ('system = "classic_vgg16"\n[train\nlr = 1', "line 2"),
        ('system = "classic_vgg16"\n[train]\nlearning = 1', r"unknown key train\.learning"),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    (tmp_path / "run.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"run\.toml: .*{message}"):
        read_config(tmp_path / "run.toml")


def test_settings_of_a_command_line(config):
    words = ["train.lr=0.5", "batch_size = 3", "anchor_scales=[1, 2]", "schedule=constant", "name=scenes"]
    with pytest.raises(ValueError, match=r"several sections have the key batch_size: say train\.batch_size"):
        parse_settings(words, config)
    words[1] = "train.batch_size=3"
    assert parse_settings(words, config) == {
        "train": {"lr": 0.5, "batch_size": 3, "schedule": "constant"},
        "model": {"anchor_scales": [1, 2]},
        "data": {"name": "scenes"},
    }
    assert parse_settings(["train.steps=none"], config) == {"train": {"steps": "none"}}
    for word, message in (
        ("lr", "'lr' has no '='"),
        ("lrr=1", r"unknown key lrr; did you mean train\.lr"),
        ("fasterness=1", "unknown key fasterness"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_settings([word], config)


def test_alternatives_unset_each_other(config):
    assert config.train.steps is not None
    epochs = changed(config, {"train": {"epochs": 3}}).train
    assert (epochs.steps, epochs.epochs) == (None, 3)
    full = default_config("classic_vgg16")
    assert changed(full, {"train": {"schedule": "cosine"}}).train.milestones == ()
    with pytest.raises(ValueError, match="either steps or epochs"):
        changed(config, {"train": {"steps": 5, "epochs": 3}})
    with pytest.raises(ValueError, match="either steps or epochs"):
        changed(config, {"train": {"steps": "none"}})


def test_the_command_prints_what_training_reads(tmp_path):
    result = CliRunner().invoke(cli.app, ["config", "stepwise_vgg16", "--backbone", "tiny", "--set", "train.lr=0.125"])
    assert result.exit_code == 0, result.output
    (tmp_path / "printed.toml").write_text(result.output, encoding="utf-8")
    default = default_config("stepwise_vgg16", "tiny")
    assert read_config(tmp_path / "printed.toml") == replace(default, train=replace(default.train, lr=0.125))


@pytest.mark.parametrize("arguments", [["classic_vgg61"], ["classic_vgg16", "--set", "lrr=1"]])
def test_the_command_refuses_in_one_line(arguments):
    result = CliRunner().invoke(cli.app, ["config", *arguments])
    assert result.exit_code == 2
    assert "did you mean" in result.output
    assert "Traceback" not in result.output


def test_settings_are_the_training_s_defaults():
    """The section shows TrainConfig itself, so a new setting appears without anyone listing it."""
    assert default_config("classic_vgg16").train == TrainConfig.classic(
        steps=80_000, schedule="multistep", milestones=(60_000,), warmup_steps=500, checkpoint_every=1000
    )
