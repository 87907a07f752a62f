"""Detectors in files: safetensors with everything needed to build them again.

A file's metadata is a dict of strings: ``format`` ("fasterrcnn 1"), ``system``, ``num_classes``, ``class_names`` (JSON
list or null), ``backbone`` (a name, or the class of a module) and ``overrides`` (JSON, constructor arguments).
:func:`load` puts other files, other projects' included, into a detector built by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from fasterrcnn.build import build
from fasterrcnn.files import replacing
from fasterrcnn.weights import LoadReport, load, load_state, read_safetensors

__all__ = ["LoadReport", "load", "load_model", "save"]

FORMAT = "fasterrcnn 1"
WIDTHS = ("rpn_channels", "head_channels")  # arguments that are sizes of layers


def save(model: nn.Module, path: str | Path) -> None:
    """Writes a detector made by :func:`fasterrcnn.build` or :class:`fasterrcnn.FasterRCNN`.

    Args:
        model: The detector. Its ``class_names`` are kept, if it has any.
        path: Replaced in one go: killed at any moment, or on a full disk, the old file or the new one is there.

    Raises:
        OSError: It cannot be written; the message names the file.
    """
    names = model.class_names
    metadata = {
        "format": FORMAT,
        "system": model.system,
        "num_classes": str(model.num_classes),
        "class_names": json.dumps(None if names is None else list(names)),
        "backbone": model.backbone_name,
        "overrides": json.dumps(model.arguments),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as file:
        # Not save_file, whose files nobody else may read.
        file.write(safetensors.torch.save(tensors, metadata=metadata))


def load_model(path: str | Path, *, backbone: nn.Module | None = None, device: torch.device | str = "cpu") -> nn.Module:
    """Builds the detector of a file and loads its parameters.

    Args:
        path: Written by :func:`save`.
        backbone: Needed where the file's detector has a backbone of its own making.
        device: Where the detector is wanted.

    Returns:
        The detector in evaluation mode, with ``class_names``.

    Raises:
        ValueError: Not such a file, or its tensors are not the detector's; the message lists them.
    """
    path = Path(path)
    advice = "`fasterrcnn convert` or fasterrcnn.checkpoints.load reads files of other projects"
    if path.suffix in (".pth", ".pt", ".pkl") and path.is_file():
        raise ValueError(f"{path} is no detector of this package, which are .safetensors files; {advice}")
    metadata, tensors = read_safetensors(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} is no detector of this package: its format is {metadata.get('format')!r}, not {FORMAT!r}; {advice}"
        )
    try:
        system, name = metadata["system"], metadata["backbone"]
        num_classes, names = int(metadata["num_classes"]), json.loads(metadata["class_names"])
        # JSON has no tuples.
        arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(metadata["overrides"]).items()}
        # A file shapes a detector; it does not open others, or have some downloaded.
        if outside := sorted(arguments.keys() & {"pretrained", "weights"}):
            raise ValueError(f"{outside[0]!r} is no part of a detector")
        names = None if names is None else tuple(names)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} does not say what detector it is of: {type(error).__name__}: {error}") from error
    if name.startswith("custom:") and backbone is None:
        raise ValueError(f"{path} has the backbone {name[7:]}, which is not built in: give it as backbone=")

    _check_widths(path, tensors, num_classes=num_classes, **{key: arguments.get(key) for key in WIDTHS})
    try:
        model = build(system, num_classes=num_classes, backbone=name if backbone is None else backbone, **arguments)
    except Exception as error:  # of whatever kind an unusable argument brings about
        raise ValueError(f"{path} describes a detector that cannot be built: {error}") from error
    load_state(model, tensors, source=path)
    model.class_names = names
    return model.to(device).eval()


def _check_widths(path: Path, tensors: Mapping[str, Tensor], **widths: Any) -> None:
    """Refuses layers larger than all tensors before they are made: numbers in a damaged file may be anything."""
    largest = max((side for tensor in tensors.values() for side in tensor.shape), default=0)
    for name, width in widths.items():
        if any(isinstance(n, (int, float)) and n > largest for n in (width if isinstance(width, tuple) else (width,))):
            raise ValueError(f"{path} describes a detector with {name} {width}, but has no tensor of that size")
