"""The configuration of a run: every setting of the system, the training, the data and the evaluation, as one TOML file.

A file has the keys ``system`` and ``backbone`` and the sections ``[model]``, ``[train]``, ``[data]`` and ``[eval]``.
What it leaves out keeps the default of its system (:mod:`fasterrcnn.recipes`); what nobody knows is refused. TOML has
no null: the string "none" stands for Python's None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import tomlkit
from tomlkit.exceptions import TOMLKitError

from fasterrcnn.build import SYSTEMS, default_arguments, find_system
from fasterrcnn.config_text import check_type, close_to, documented, from_toml, matches_default, to_document
from fasterrcnn.data.annotated import VERIFY
from fasterrcnn.data.augment import check_augmentation
from fasterrcnn.data.catalog import DATASETS, KNOWN, SIZES, is_generated
from fasterrcnn.data.problems import POLICIES
from fasterrcnn.recipes import recipe
from fasterrcnn.training.schedule import TrainConfig

SECTIONS = ("model", "train", "data", "eval")
OWN_BACKBONE = "own"
OF_FILES = {"train_images": None, "eval_images": None, "size": None, "flip": 0.5, "group_by_aspect": True}
"""What data sets of files have by default: all images, mirrored, in batches of one orientation."""


@dataclass(frozen=True)
class DataConfig:
    """What to train and to evaluate on.

    Attributes:
        name: "shapes" (simple figures, learned in minutes), "scenes" (objects pasted over photographs), or files:
            "voc:FOLDER", "coco:FOLDER", "coco:JSON:IMAGES" with {split} where the splits differ.
        train_images: Images in the training set; of files at most so many, None for all.
        eval_images: Images in the validation set; likewise.
        size: [height, width] of generated images in pixels.
        seed: Of generated pictures; the validation set has none of the training set's.
        train_split, eval_split: Of files: their names for the splits, such as "trainval" and "test".
        problems: Of files: "repair" what can be and leave out the rest, "skip" images with any problem, or "error".
        verify: Of files: "head" reads the heads of all images first, "pixels" decodes them.
        flip: Part of the training images that are mirrored left to right.
        scale_jitter: Least and greatest factor by which objects of training images become larger in them; None for not.
        group_by_aspect: Put upright and wide images of files into different batches where possible.
    """

    name: str = "shapes"
    train_images: int | None = 4000
    eval_images: int | None = 200
    size: tuple[int, int] | None = SIZES["shapes"]
    seed: int = 0
    train_split: str = "train"
    eval_split: str = "val"
    problems: str = "repair"
    verify: str = "head"
    flip: float = 0.0
    scale_jitter: tuple[float, float] | None = None
    group_by_aspect: bool = False

    def __post_init__(self) -> None:
        try:
            generated = is_generated(self.name)
        except ValueError as error:
            raise ValueError(f"name: {error}") from error
        for name in ("train_images", "eval_images"):
            value = getattr(self, name)
            if value is None and generated:
                raise ValueError(f"{name} is needed, the pictures of {self.name} have no end")
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 64):
            raise ValueError(f"size must be [height, width] of at least 64 pixels each, got {list(self.size)}")
        for name, known in (("problems", POLICIES), ("verify", VERIFY)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        check_augmentation(self.flip, self.scale_jitter)


@dataclass(frozen=True)
class EvalConfig:
    """When and how to evaluate on the validation set. The end of a training always does.

    Attributes:
        every_steps: Also after every so many steps; None for not.
        every_epochs: Also after every so many passes over the training set; None for not.
        batch_size: Images at a time.
        score_threshold: Detections below do not count; None for the system's own threshold.
    """

    every_steps: int | None = None
    every_epochs: int | None = None
    batch_size: int = 8
    score_threshold: float | None = None

    def __post_init__(self) -> None:
        for name in ("every_steps", "every_epochs", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.score_threshold is not None and not 0 <= self.score_threshold < 1:
            raise ValueError(f"score_threshold must be in 0…1, got {self.score_threshold}")


@dataclass(frozen=True)
class RunConfig:
    """Everything a training needs to know.

    Attributes:
        system: A name ``fasterrcnn.build`` knows.
        backbone: A name of a trunk; None for the system's own.
        model: Constructor arguments of the system, all of them.
        train: How to train.
        data: On what.
        eval: When and how to evaluate.
    """

    system: str
    backbone: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=1))
    data: DataConfig = field(default_factory=DataConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)


def default_config(system: str, backbone: str | None = None, data: str = "shapes") -> RunConfig:
    """The configuration a command uses when nothing else is said.

    Args:
        system: A name ``fasterrcnn.build`` knows.
        backbone: A name of a trunk, such as "tiny"; None for the system's own.
        data: Name of the data set; recipes for small trunks depend on it.

    Raises:
        ValueError: An unknown name.
    """
    if system not in SYSTEMS:
        raise ValueError(f"unknown system {system!r}{close_to(system, SYSTEMS)}")
    if ":" not in data and data not in DATASETS:
        raise ValueError(f"unknown data set {data!r}{close_to(data, KNOWN)}")
    own = {"size": SIZES[data]} if is_generated(data) else dict(OF_FILES)
    chosen = recipe(system, backbone, data)
    model = {name: _plain(value) for name, value in default_arguments(system, backbone).items()}
    config = RunConfig(
        system,
        backbone,
        model,
        TrainConfig(**chosen.get("train", {})),
        DataConfig(**{"name": data, **own, **chosen.get("data", {})}),
        EvalConfig(**chosen.get("eval", {})),
    )
    return changed(config, {"model": chosen.get("model", {})})


def changed(config: RunConfig, changes: Mapping[str, Mapping[str, Any]]) -> RunConfig:
    """The configuration with other values, each checked.

    Setting one of ``steps`` and ``epochs`` unsets the other, and another schedule than "multistep" unsets its
    milestones, unless both are given.

    Args:
        config: Stays as it is.
        changes: Values by section and key; lists for tuples, None or "none" for None.

    Raises:
        ValueError: An unknown section or key (with the names closest to it), a value of the wrong type, or one that the
            section refuses; the message begins with "section.key" or "section".
    """
    parts: dict[str, Any] = {}
    for section, values in changes.items():
        if section not in SECTIONS:
            raise ValueError(f"unknown section [{section}]{close_to(section, SECTIONS)}")
        if not isinstance(values, Mapping):
            raise ValueError(f"[{section}] must be a section of keys, got {values!r}")
        known = _keys(config, section)
        for key in values:
            if key not in known:
                raise ValueError(f"unknown key {section}.{key}{close_to(key, known)}")
        if section == "model":
            new = {k: matches_default(f"model.{k}", from_toml(v), config.model[k]) for k, v in values.items()}
            parts["model"] = {**config.model, **new}
            continue
        current = getattr(config, section)
        hints = get_type_hints(type(current))
        new = {k: check_type(f"{section}.{k}", from_toml(v), hints[k]) for k, v in values.items()}
        if section == "train":
            new = _unset_alternatives(new)
        try:
            parts[section] = replace(current, **new)
        except ValueError as error:
            raise ValueError(f"{section}: {error}") from error
    return replace(config, **parts)


def parse_settings(settings: Sequence[str], config: RunConfig) -> dict[str, dict[str, Any]]:
    """Changes out of "key=value" words as a command line has them.

    Args:
        settings: Each "section.key=value" or, where one section alone has the key, "key=value". Values are written as
            in TOML; what is no TOML is taken as a string.
        config: Knows the keys.

    Raises:
        ValueError: No "=", an unknown key, or a key of several sections.
    """
    changes: dict[str, dict[str, Any]] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals:
            raise ValueError(f"{setting!r} has no '=': write section.key=value")
        section, dot, key = name.partition(".")
        if not dot:
            key = name
            owners = [section for section in SECTIONS if key in _keys(config, section)]
            if not owners:
                everything = [f"{section}.{key}" for section in SECTIONS for key in _keys(config, section)]
                raise ValueError(f"unknown key {key}{close_to(key, everything)}")
            if len(owners) > 1:
                raise ValueError(f"several sections have the key {key}: say {', '.join(f'{o}.{key}' for o in owners)}")
            section = owners[0]
        try:
            value = tomlkit.parse(f"value = {text.strip()}").unwrap()["value"]
        except TOMLKitError:
            value = text.strip()
        changes.setdefault(section, {})[key] = value
    return changes


def read_config(path: str | Path) -> RunConfig:
    """Reads a TOML file; what it leaves out has the default of its system.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no TOML, names no system, or has something unknown or unfit; the message names the file.
    """
    data = Path(path).read_bytes()
    try:
        content = tomlkit.parse(data.decode("utf-8")).unwrap()
        return _from_content(content)
    except RecursionError as error:
        raise ValueError(f"{path}: nested too deep") from error
    except (TOMLKitError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def to_toml(config: RunConfig, *, comments: bool = True) -> str:
    """The configuration as TOML, every key with what it means as a comment above it.

    Args:
        config: The configuration.
        comments: False for the values alone.
    """
    explained = {
        "model": documented(find_system(config.system).make.__doc__),
        **{section: documented(type(getattr(config, section)).__doc__) for section in SECTIONS[1:]},
    }
    top = {"system": config.system, "backbone": config.backbone or OWN_BACKBONE}
    heads = {
        "system": "A name of fasterrcnn.build.",
        "backbone": f'The trunk: "tiny", or another name; "{OWN_BACKBONE}" for the system\'s own.',
    }
    sections = {"model": config.model, **{s: asdict(getattr(config, s)) for s in SECTIONS[1:]}}
    return to_document(top, heads, sections, explained if comments else {})


def _from_content(content: dict[str, Any]) -> RunConfig:
    known = ("system", "backbone", *SECTIONS)
    for key in content:
        if key not in known:
            raise ValueError(f"unknown key {key}{close_to(key, known)}")
    if not isinstance(content.get("system"), str):
        raise ValueError('the key system is missing: a name such as system = "classic_vgg16"')
    backbone = content.get("backbone", OWN_BACKBONE)
    if not isinstance(backbone, str):
        raise ValueError(f"backbone must be a string, got {backbone!r}")
    sections = {section: content[section] for section in SECTIONS if section in content}
    data = sections.get("data", {})
    name = data.get("name", "shapes") if isinstance(data, Mapping) else "shapes"
    config = default_config(content["system"], None if backbone == OWN_BACKBONE else backbone, name)
    return changed(config, sections)


def _keys(config: RunConfig, section: str) -> list[str]:
    if section not in SECTIONS:
        return []
    return list(config.model) if section == "model" else [f.name for f in fields(getattr(config, section))]


def _unset_alternatives(new: dict[str, Any]) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if new.get(one) is not None and other not in new:
            extra[other] = None
    if new.get("schedule", "multistep") != "multistep" and "milestones" not in new:
        extra["milestones"] = ()
    return {**new, **extra}


def _plain(value: Any) -> Any:
    """Lists as tuples, all the way down, as constructors have them."""
    return tuple(_plain(item) for item in value) if isinstance(value, (list, tuple)) else value
