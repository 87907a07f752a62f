"""Detectors in files: safetensors with everything needed to build them again.

A file's metadata is a dict of strings: ``format`` ("fasterrcnn 1"), ``system``, ``num_classes``, ``class_names`` (JSON
list or null), ``backbone`` (a name, or the class of a module) and ``overrides`` (JSON, constructor arguments).
"""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from fasterrcnn.build import build
from fasterrcnn.files import replacing
from fasterrcnn.weights import load_state, read_safetensors

FORMAT = "fasterrcnn 1"


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
    metadata, tensors = read_safetensors(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} is no detector of this package: its format is {metadata.get('format')!r}, not {FORMAT!r}"
        )
    name = metadata["backbone"]
    if name.startswith("custom:") and backbone is None:
        raise ValueError(f"{path} has the backbone {name[7:]}, which is not built in: give it as backbone=")
    # JSON has no tuples.
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(metadata["overrides"]).items()}
    model = build(
        metadata["system"],
        num_classes=int(metadata["num_classes"]),
        backbone=name if backbone is None else backbone,
        **arguments,
    )
    load_state(model, tensors, source=path)
    names = json.loads(metadata["class_names"])
    model.class_names = None if names is None else tuple(names)
    return model.to(device).eval()
