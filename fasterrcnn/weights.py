"""Tensors from files into detectors: state dicts that must fit, and published ImageNet weights.

Nothing here unpickles code: files saved by ``torch.save`` are read with ``weights_only``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

LISTED = 8  # names in an error message


def load_state(model: nn.Module, tensors: Mapping[str, Tensor], *, source: str | Path) -> None:
    """Loads a state dict that must fit exactly, but for BatchNorm's counters, which old files lack.

    Raises:
        ValueError: Names the source and lists missing, unknown and misshapen tensors; nothing is loaded then.
    """
    expected = model.state_dict()
    missing = [n for n in expected if n not in tensors and not n.endswith("num_batches_tracked")]
    unknown = [n for n in tensors if n not in expected and not n.endswith("num_batches_tracked")]
    misshapen = [
        f"{n} {list(tensors[n].shape)} instead of {list(expected[n].shape)}"
        for n in expected
        if n in tensors and tensors[n].shape != expected[n].shape
    ]
    problems = [
        f"{len(names)} {kind} ({', '.join(names[:LISTED])}{', …' if len(names) > LISTED else ''})"
        for kind, names in (("missing", missing), ("unknown", unknown), ("misshapen", misshapen))
        if names
    ]
    if problems:
        raise ValueError(f"the tensors of {source} are not this model's: {'; '.join(problems)}")
    model.load_state_dict(dict(tensors), strict=False)


def load_pretrained(model: nn.Module, weights: str | Path | None = None) -> None:
    """Loads a backbone's ImageNet weights into a new detector, or a state dict of the whole detector.

    Args:
        model: A detector whose backbone names its ``pretrained`` source.
        weights: A local file (``.safetensors``, or anything ``torch.load`` reads with ``weights_only``); None takes the
            published file out of torch.hub's cache, downloading it the first time.

    Raises:
        ValueError: The backbone has no published weights, or the tensors do not fit; the message lists them.
    """
    source = getattr(model.trunk, "pretrained", None)
    if weights is None:
        if source is None:
            raise ValueError(f"there are no published weights for the backbone {model.backbone_name}")
        where = source.url
        tensors = torch.hub.load_state_dict_from_url(source.url, map_location="cpu", weights_only=True, check_hash=True)
    else:
        where = weights
        tensors = read_tensors(weights)
    if any(name.startswith(("rpn.", "head.", "roi_heads.")) for name in tensors):
        load_state(model, tensors, source=where)
        return
    if source is None:
        raise ValueError(
            f"{where} holds no whole detector, and the backbone {model.backbone_name} names no other source"
        )
    renamed = {}
    names = [
        (prefix, ours.format(backbone=model.backbone_prefix, stage=model.stage_prefix))
        for prefix, ours in source.names
        if model.stage_prefix or "{stage}" not in ours
    ]
    placed = {prefix for prefix, _ in names}
    unused = (*source.unused, *(prefix for prefix, _ in source.names if prefix not in placed))
    for name, tensor in tensors.items():
        for prefix, ours in names:
            if name.startswith(prefix):
                renamed[ours + name[len(prefix) :]] = tensor
                break
        else:
            if not name.startswith(unused):
                renamed[name] = tensor  # to be reported as unknown
    state = model.state_dict()
    prefixes = tuple(ours for _, ours in names)
    load_state(model, {**{n: t for n, t in state.items() if not n.startswith(prefixes)}, **renamed}, source=where)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file or of a state dict saved by ``torch.save``, on the CPU.

    Raises:
        ValueError: The file cannot be read as such.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)[1]
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds
        raise ValueError(f"{path} cannot be read as a state dict: {error}") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise ValueError(f"{path} holds no state dict: expected names and tensors, got {type(tensors).__name__}")
    return dict(tensors)


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors (on the CPU) of a safetensors file; ValueError if it is none."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error
