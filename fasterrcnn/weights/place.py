"""Tensors into detectors: all of them fit, or nothing is loaded and every one that does not is named."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fasterrcnn.weights.families import RESNET, Converted, convert, fit_box_columns, refuse_other_meaning
from fasterrcnn.weights.files import FileContents, read_file
from fasterrcnn.weights.stem import InputRule, fit_stem

OWN = "this package"
_PREDICTORS = re.compile(r"roi_heads\.box\.predictor\.|head\.(cls_loc|score)\.|roi_heads\.(loc|score)\.")
_COUNTER = "num_batches_tracked"  # of BatchNorm; old files lack it, and nothing depends on it


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load` did.

    Attributes:
        source: The file.
        family: Whose layout it has, such as "detectron2".
        loaded: Names in the detector that got their tensor from the file.
        kept: Names in the detector the file has nothing for: RPN and predictors, where the file is a trunk's.
        left: Names in the file that have no place in a detector, such as an ImageNet classifier.
        notes: What was converted, and what is worth knowing.
    """

    source: str
    family: str
    loaded: tuple[str, ...]
    kept: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.family}, {len(self.loaded)} tensors loaded"]
        lines += [f"  kept as they were: {listed(self.kept)}"] if self.kept else []
        lines += [f"  left in the file: {listed(self.left)}"] if self.left else []
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def load(model: nn.Module, path: str | Path, *, predictors: bool = True) -> LoadReport:
    """Loads a file of weights into a detector: this package's, or another project's after conversion.

    Known are the classic PyTorch family's state dicts, maskrcnn-benchmark's and detectron2's R50-C4 (``.pth`` and
    ``.pkl``), Detectron's (``.pkl``), torchvision's ImageNet VGG-16 and ResNet-50 (for the trunk alone; the rest keeps
    its values), and whatever a backbone of one's own names in ``pretrained``. ``docs/weights.md`` says what is
    converted.

    Args:
        model: A detector made by :func:`fasterrcnn.build`, on any device.
        path: ``.safetensors``, a file of ``torch.save`` or a plain pickle. Nothing in it is run.
        predictors: False leaves the layers that predict classes and boxes of RoIs as they are, for a training on other
            classes than the file's.

    Returns:
        What was recognised, loaded, kept and left.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read, asks for code, is no known family's, or its tensors do not fit; the message
            names every tensor that is missing, unexpected or misshapen. Nothing is loaded then.

    Example:
        >>> import fasterrcnn, torch
        >>> model = fasterrcnn.build("classic_vgg16", num_classes=3, backbone="tiny")
        >>> torch.save({"model": model.state_dict()}, path)  # doctest: +SKIP
        >>> print(fasterrcnn.checkpoints.load(model, path))  # doctest: +SKIP
    """
    return _load(model, read_file(path), path, predictors)


def load_pretrained(model: nn.Module, weights: str | Path | None = None) -> LoadReport:
    """Loads a backbone's ImageNet weights into a new detector, or a file of a whole detector.

    Args:
        model: A detector whose backbone names its ``pretrained`` source.
        weights: A local file, as for :func:`load`; None takes the published file out of torch.hub's cache, downloading
            it the first time.

    Raises:
        ValueError: The backbone has no published weights, or the tensors do not fit; the message lists them.
    """
    if weights is not None:
        return load(model, weights)
    source = getattr(model.trunk, "pretrained", None)
    if source is None:
        raise ValueError(f"there are no published weights for the backbone {model.backbone_name}")
    tensors = torch.hub.load_state_dict_from_url(source.url, map_location="cpu", weights_only=True, check_hash=True)
    return _load(model, FileContents(tensors), source.url)


def load_state(model: nn.Module, tensors: Mapping[str, Tensor], *, source: str | Path) -> None:
    """Loads a state dict that passes :func:`check_state`; otherwise nothing is loaded."""
    check_state(model, tensors, source=source)
    model.load_state_dict(dict(tensors), strict=False)


def check_state(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    source: str | Path,
    optional: Iterable[str] = (),
    names: Mapping[str, str] | None = None,
) -> None:
    """A state dict must fit exactly, but for BatchNorm's counters, which old files lack.

    Args:
        model: Any module.
        tensors: By the model's names.
        source: Named in errors.
        optional: Names in the model that may be missing.
        names: Name here → name in the file, where they differ, for errors.

    Raises:
        ValueError: Names the source and every missing, unknown and misshapen tensor.
    """
    expected = model.state_dict()
    optional, names = set(optional), names or {}
    missing = [n for n in expected if n not in tensors and n not in optional and not n.endswith(_COUNTER)]
    unknown = [names.get(n, n) for n in tensors if n not in expected and not n.endswith(_COUNTER)]
    misshapen = [
        f"{n} {list(tensors[n].shape)} instead of {list(expected[n].shape)}"
        for n in expected
        if n in tensors and tensors[n].shape != expected[n].shape
    ]
    problems = [
        f"{len(found)} {kind} ({text})"
        for kind, found, text in (
            ("missing", missing, listed(missing)),
            ("unknown", unknown, listed(unknown)),
            ("misshapen", misshapen, ", ".join(misshapen)),
        )
        if found
    ]
    if problems:
        raise ValueError(
            f"the tensors of {source} are not this model's: {'; '.join(problems + _hints(tensors, expected))}"
        )


def listed(names: Iterable[str]) -> str:
    """Every name, those of one layer together: ``conv1.{weight, bias}, bn1.weight``."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layer, _, part = name.rpartition(".")
        layers.setdefault(layer, []).append(part)
    texts = []
    for layer, parts in layers.items():
        text = parts[0] if len(parts) == 1 else f"{{{', '.join(parts)}}}"
        texts += [f"{layer}.{text}"] if layer else parts
    return ", ".join(texts)


def _load(model: nn.Module, contents: FileContents, source: str | Path, predictors: bool = True) -> LoadReport:
    found = _recognised(model, contents, source)
    expected = model.state_dict()
    tensors = dict(found.whole)
    if found.trunk:
        if found.input is not None:
            note = fit_stem(found.trunk, found.input, InputRule.of(model.arguments))
            found.notes += [note] if note else []
        tensors |= _placed(model, found, source)
    tensors |= found.heads
    if found.family == RESNET and getattr(model.trunk, "stride_on_1x1", False):
        found.notes.append(
            "torchvision's ResNet-50 has its strides on 3×3 convolutions, this detector on the 1×1 before them"
        )
    if not any(name.startswith("roi_heads.") for name in expected) and found.heads:  # an RPN of its own
        for name in [n for n in tensors if n.startswith("roi_heads.")]:
            found.left.append(found.names.get(name, name))
            del tensors[name]
    if not predictors:
        for name in [n for n in tensors if _PREDICTORS.match(n)]:
            found.left.append(found.names.get(name, name))
            del tensors[name]
    fit_box_columns(tensors, {name: tensor.shape for name, tensor in expected.items()}, found.notes)
    optional = [] if predictors else [name for name in expected if _PREDICTORS.match(name)]
    if not found.heads and not found.whole:  # of a trunk alone
        prefixes = tuple(f"{p}." for p in (model.backbone_prefix, model.stage_prefix) if p)
        places = tuple(ours for _, ours in _places(model)) or prefixes
        optional += [name for name in expected if not name.startswith(places)]
    check_state(model, tensors, source=source, optional=optional, names=found.names)
    model.load_state_dict(tensors, strict=False)
    return LoadReport(
        str(source),
        found.family,
        tuple(name for name in expected if name in tensors),
        tuple(name for name in expected if name not in tensors and not name.endswith(_COUNTER)),
        tuple(found.left),
        (*contents.notes, *found.notes),
    )


def _recognised(model: nn.Module, contents: FileContents, source: str | Path) -> Converted:
    tensors = contents.tensors
    try:
        refuse_other_meaning(contents.others)
    except ValueError as error:
        raise ValueError(f"{source} {error}") from error
    expected, names = ({n for n in state if not n.endswith(_COUNTER)} for state in (model.state_dict(), tensors))
    if contents.metadata.get("format", "").startswith("fasterrcnn ") or names == expected:
        return Converted(OWN, whole=dict(tensors))
    found = convert(tensors, model.arguments)
    if found is not None:
        return found
    if any(name.startswith(("rpn.", "head.", "roi_heads.")) for name in tensors):
        return Converted(OWN, whole=dict(tensors))
    if getattr(model.trunk, "pretrained", None) is None:
        raise ValueError(
            f"{source} holds no whole detector, and the backbone {model.backbone_name} names no other source"
        )
    return Converted(f"the source of the backbone {model.backbone_name}", trunk=dict(tensors))


def _places(model: nn.Module) -> list[tuple[str, str]]:
    """(prefix in a trunk's file, prefix in the detector) of what has a place in the detector."""
    source = getattr(model.trunk, "pretrained", None)
    return [
        (prefix, ours.format(backbone=model.backbone_prefix, stage=model.stage_prefix))
        for prefix, ours in (source.names if source else ())
        if model.stage_prefix or "{stage}" not in ours
    ]


def _placed(model: nn.Module, found: Converted, source: str | Path) -> dict[str, Tensor]:
    """The tensors of a trunk by the detector's names; what has none keeps its own, to be reported as unknown."""
    published = getattr(model.trunk, "pretrained", None)
    if published is None:
        raise ValueError(
            f"{source} is a file of {found.family}, but the backbone {model.backbone_name} has no such trunk"
        )
    places = _places(model)
    homeless = (*published.unused, *(p for p, _ in published.names if p not in {prefix for prefix, _ in places}))
    placed = {}
    for name, tensor in found.trunk.items():
        theirs = found.names.get(name, name)
        for prefix, ours in places:
            if name.startswith(prefix):
                new = ours + name[len(prefix) :]
                placed[new] = tensor
                found.names[new] = theirs
                break
        else:
            if name.startswith(homeless):
                found.left.append(theirs)
            else:
                placed[name] = tensor
    return placed


def _hints(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """What usually is behind shapes that differ."""
    hints = []
    for name, what, rows in (
        ("cls_score.bias", "classes besides background", lambda n: n - 1),
        ("head.score.bias", "classes besides background", lambda n: n - 1),
        ("rpn.head.bbox_pred.bias", "anchors a location", lambda n: n // 4),
        ("rpn.loc.bias", "anchors a location", lambda n: n // 4),
    ):
        for full in expected:
            found = tensors.get(full) if full.endswith(name) else None
            if found is not None and found.ndim == 1 and found.shape != expected[full].shape:
                theirs, ours = rows(len(found)), rows(len(expected[full]))
                hints.append(f"the file is for {theirs} {what}, the detector has {ours}")
    return hints
