"""Damaged and malicious files of weights: an error that names the file, no crash, no hang, no gigabytes of memory."""

from __future__ import annotations

import faulthandler
import io
import json
import pickle
import random
import resource
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import fasterrcnn
from fasterrcnn import checkpoints
from fasterrcnn.weights.files import read_file

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and pickletools about what they are given

MEMORY = 4 << 30  # bytes a reader may take beyond what the process has
SECONDS = 10.0  # for one small file, on a busy machine
# Numbers at which sizes, offsets and references go wrong.
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]


def state() -> dict[str, torch.Tensor]:
    weights = {"weight": torch.rand(4, 3, 3, 3), "bias": torch.rand(4), "steps": torch.arange(2)}
    return {f"module.conv.{name}": tensor for name, tensor in weights.items()}


def seeds() -> dict[str, bytes]:
    """A sound file of each kind, by the ending of its name."""
    files = {}
    for name, zipped in (("zip.pth", True), ("legacy.pth", False)):
        buffer = io.BytesIO()
        torch.save({"model": state(), "iteration": 3}, buffer, _use_new_zipfile_serialization=zipped)
        files[name] = buffer.getvalue()
    arrays = {name: tensor.numpy() for name, tensor in state().items()}
    for protocol in (0, 2, 4, 5):
        contents = {"model": arrays, "__author__": "somebody", "scale": np.float32(2)}
        files[f"{protocol}.pkl"] = pickle.dumps(contents, protocol)
    files["plain.safetensors"] = safetensors.torch.save(state(), metadata={"format": "pt"})
    return files


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A few random changes: bytes, numbers, cuts, repetitions and shuffled pieces."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not found:
            break
        at, length = rng.randrange(len(found)), rng.choice((1, 2, 8, 64))
        kind = rng.randrange(7)
        if kind == 0:
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            found[at] = rng.randrange(256)
        elif kind == 2:
            number = struct.pack(rng.choice("<>") + "Q", rng.choice(NUMBERS))
            size = rng.choice((1, 2, 4, 8))
            found[at : at + size] = number[:size]
        elif kind == 3:
            del found[at : at + length]
        elif kind == 4:
            found[at:at] = found[at : at + length]
        elif kind == 5:
            other = rng.randrange(len(found))
            found[at:at] = found[other : other + length]
        else:
            del found[rng.choice((at, len(found) - 1)) :]
    return bytes(found)


def mutated_record(data: bytes, rng: random.Random) -> bytes:
    """An archive of torch.save with one record changed and all checksums right, as somebody would do it on purpose."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as new:
        records = old.infolist()
        ending = rng.choice(("data.pkl", "data.pkl", "/0", "byteorder"))
        chosen = next(record for record in records if record.filename.endswith(ending))
        for record in records:
            contents = old.read(record)
            new.writestr(record.filename, mutated(contents, rng) if record is chosen else contents)
    return buffer.getvalue()


def mutated_metadata(data: bytes, rng: random.Random) -> bytes:
    """A detector's safetensors file with its metadata changed, its frame sound."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    metadata = header["__metadata__"]
    key = rng.choice(sorted(metadata))
    if rng.random() < 0.6:  # an argument with another value
        arguments = json.loads(metadata["overrides"])
        argument = rng.choice(sorted(arguments))
        values = [*NUMBERS, -1, 0.5, 1e308, None, "", "text", [], [0, -1], [1e9, 1e9], {}, True]
        arguments[argument] = rng.choice([*values, arguments[argument]])
        metadata["overrides"] = json.dumps(arguments)
    elif rng.random() < 0.8:
        metadata[key] = mutated(metadata[key].encode(), rng).decode("utf-8", "replace")
    elif rng.random() < 0.5:
        metadata[key] = str(rng.choice(NUMBERS))
    else:
        del metadata[key]
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data[8 + length :]


def attempt(read, path: Path, data: bytes) -> bool:
    """Reads a file; True if it can be read, after every number in it was looked at."""
    path.write_bytes(data)
    start = time.perf_counter()
    try:
        tensors = read(path)
    except ValueError as caught:
        tensors, message = None, str(caught)
    assert time.perf_counter() - start < SECONDS
    assert tensors is not None or str(path) in message
    for tensor in (tensors or {}).values():
        tensor.double().sum().item()
    return tensors is not None


@pytest.fixture
def bounded():
    """Memory in bounds; a hang ends the process with the place it hangs at."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def fuzz(tmp_path, count, seed):
    """``count`` files of each kind; both outcomes must occur, or nothing was tried."""
    files = seeds()
    for name, data in files.items():
        path = tmp_path / name
        assert attempt(lambda p: read_file(p).tensors, path, data), name
        rng = random.Random(f"{seed} {name}")
        change = mutated_record if name == "zip.pth" else mutated
        outcomes = {attempt(lambda p: read_file(p).tensors, path, mutated(data, rng)) for _ in range(count)}
        outcomes |= {attempt(lambda p: read_file(p).tensors, path, change(data, rng)) for _ in range(count // 2)}
        assert outcomes == {True, False} or name == "zip.pth", name


def fuzz_detector(tmp_path, count, seed):
    model = fasterrcnn.build("classic_vgg16", num_classes=3, backbone="tiny")
    path = tmp_path / "detector.safetensors"
    checkpoints.save(model, path)
    data, rng = path.read_bytes(), random.Random(seed)
    outcomes = {attempt(lambda p: checkpoints.load_model(p).state_dict(), path, data)}
    assert outcomes == {True}
    for _ in range(count):
        outcomes.add(attempt(lambda p: checkpoints.load_model(p).state_dict(), path, mutated_metadata(data, rng)))
    assert outcomes == {True, False}


def test_damaged_files(tmp_path, bounded):
    fuzz(tmp_path, 60, 1)


def test_damaged_detectors(tmp_path, bounded):
    fuzz_detector(tmp_path, 40, 1)


@pytest.mark.slow
def test_many_damaged_files(tmp_path, bounded):
    fuzz(tmp_path, 600, 2)  # 6300 files


@pytest.mark.slow
def test_many_damaged_detectors(tmp_path, bounded):
    fuzz_detector(tmp_path, 400, 2)
