"""What is in a file of weights: safetensors, a file of ``torch.save``, or a plain pickle with arrays.

Files are told apart by their first bytes rather than by their names, where that is possible.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from fasterrcnn.weights.pickles import PickledArray, RefusedPickle, read_pickle

PICKLES = (".pkl", ".pickle")
# Where training programs keep the state dict in a file, in the order it is looked for.
NESTS = ("model", "state_dict", "model_state_dict", "model_state", "blobs", "net")
# What wrapping a model puts in front of all its names.
PREFIXES = ("module.", "_orig_mod.", "model.")
# How a file of torch.save starts that is no zip archive: the magic number of the time before torch 1.6, pickled.
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


class NoStateDict(ValueError):
    """Says what a file that could be read holds no … of."""


@dataclass
class FileContents:
    """Tensors of a file, on the CPU.

    Attributes:
        tensors: By the names of the file, without what wrappers put in front of all of them.
        metadata: Of a safetensors file.
        others: Keys found beside the state dict, such as "optimizer" and "__author__".
        notes: What was taken off or left out on the way.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def read_file(path: str | Path) -> FileContents:
    """Reads a file of weights without running anything in it.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It cannot be read, holds no state dict, or asks for code; the message names the file.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        metadata, tensors = read_safetensors(path)
        return _without_prefixes(FileContents(tensors, metadata))
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        found = _read_any(path)
        contents = _state_dict(found)
    except RefusedPickle as error:
        raise ValueError(f"{path} is refused: {error}") from error
    except NoStateDict as error:
        raise ValueError(f"{path} holds no {error}") from error
    except Exception as error:  # damaged files raise many kinds
        raise ValueError(f"{path} cannot be read as a state dict: {_reason(error)}") from error
    return _without_prefixes(contents)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of :func:`read_file` alone."""
    return read_file(path).tensors


def read_safetensors(path: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors (on the CPU) of a safetensors file; ValueError if it is none."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error


def _read_any(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(len(_LEGACY))
    if start.startswith(b"PK"):
        _check_archive(path)
        # Mapped, a storage ends where the file does, whatever the pickle says about its length.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if path.suffix in PICKLES and start != _LEGACY:
        return read_pickle(path.read_bytes())
    return torch.load(path, map_location="cpu", weights_only=True)


def _check_archive(path: Path) -> None:
    """Raises for a damaged zip archive: torch itself does not compare checksums."""
    with zipfile.ZipFile(path) as archive:
        if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
            raise ValueError("its records are compressed, which torch.save does not do")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"its record {damaged} is damaged")


def _reason(error: Exception) -> str:
    """The error in a line of its own; torch's message about code ends in advice to run it."""
    refused = re.search(r"Unsupported (?:global|class|operand|type)[^\n]*?:? ?(?:GLOBAL )?([\w.]+\.[\w.]+)", str(error))
    if refused:
        return f"it asks for {refused[1]}, which weights do not need and may be code"
    lines = str(error).strip().splitlines()
    return f"{lines[0]} ({type(error).__name__})" if lines else type(error).__name__


def _state_dict(found: Any) -> FileContents:
    """The state dict in what a file holds, however deep; ValueError if there is none."""
    notes, others = [], []
    for _ in range(5):
        if not isinstance(found, Mapping):
            break
        if any(isinstance(value, (Tensor, PickledArray)) for value in found.values()):
            tensors, rest = {}, []
            for name, value in found.items():
                if isinstance(name, str) and isinstance(value, (Tensor, PickledArray)):
                    tensors[name] = _plain(name, value)
                else:
                    rest.append(f"{name!s:.60}")
            return FileContents(tensors, {}, (*others, *rest), notes)
        inner = next((key for key in NESTS if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        others += [f"{key!s:.60}" for key in found if key != inner]
        notes.append(f"the state dict is under {inner!r}")
        found = found[inner]
    raise NoStateDict(f"state dict: expected names and tensors, got {type(found).__name__}")


def _plain(name: str, value: Tensor | PickledArray) -> Tensor:
    tensor = value.tensor() if isinstance(value, PickledArray) else value.detach()
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise NoStateDict(f"plain tensor under {name!r:.80}")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():  # a number said to be a terabyte
        raise NoStateDict(f"tensor with numbers of its own under {name!r:.80}")
    return tensor


def _without_prefixes(contents: FileContents) -> FileContents:
    while True:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in contents.tensors)), None)
        if prefix is None or not contents.tensors:
            return contents
        contents.tensors = {name[len(prefix) :]: tensor for name, tensor in contents.tensors.items()}
        contents.notes.append(f"names begin with {prefix!r}")
