"""Readers of weights: what is found in files, and that nothing in them is run."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch

from fasterrcnn.weights.files import read_file, read_tensors


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "float32": rng.normal(size=(2, 3, 1, 1)).astype(np.float32),
        "float16": rng.normal(size=5).astype(np.float16),
        "big_endian": rng.normal(size=(2, 2)).astype(">f8"),
        "fortran": np.asfortranarray(rng.normal(size=(3, 4)).astype(np.float32)),
        "int64": np.arange(4),
        "bool": np.array([True, False]),
        "none": np.zeros((0, 3), np.float32),
        "number": np.array(3.5, np.float32),
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_a_pickle(tmp_path, protocol):
    written = arrays()
    contents = OrderedDict(model=OrderedDict(written), __author__="Detectron2 Model Zoo", scale=np.float64(2.5))
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(contents, protocol))
    read = read_file(tmp_path / "model.pkl")
    assert list(read.tensors) == list(written)
    assert read.others == ("__author__", "scale")
    for name, array in written.items():
        expected = torch.from_numpy(
            np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))).reshape(array.shape)
        )
        assert read.tensors[name].dtype == expected.dtype
        assert read.tensors[name].shape == expected.shape, name
        assert torch.equal(read.tensors[name], expected), name
        assert read.tensors[name].is_contiguous()


def test_pickle_of_python_2(tmp_path):
    """Strings are bytes there, raw numbers included; written out, since no Python 3 writes it so."""
    raw = np.array([1.5, -2.0], "<f4").tobytes()
    data = (
        b"\x80\x02}q\x00U\x06conv_wq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85q\x04"
        b"U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x02\x85q\x08cnumpy\ndtype\nq\x09U\x02f4q\x0aK\x00K\x01\x87q\x0bRq\x0c"
        b"(K\x03U\x01<q\x0dNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89U\x08" + raw + b"q\x0ftq\x10bs."
    )
    (tmp_path / "old.pkl").write_bytes(data)
    assert pickle.loads(data, encoding="latin1")["conv_w"].tolist() == [1.5, -2.0]
    assert read_tensors(tmp_path / "old.pkl")["conv_w"].tolist() == [1.5, -2.0]


def test_one_array_under_two_names_is_read_once(tmp_path):
    array = np.ones(3, np.float32)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": array, "b": array}))
    tensors = read_tensors(tmp_path / "a.pkl")
    assert tensors["a"] is tensors["b"]


@pytest.mark.parametrize(
    "nest", [(), ("model",), ("state_dict",), ("model_state_dict",), ("blobs",), ("state_dict", "model")]
)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_nesting_and_prefixes(tmp_path, nest, prefix):
    found = {f"{prefix}conv.weight": torch.ones(2), f"{prefix}conv.bias": torch.zeros(2)}
    for key in nest:
        found = {key: found, "iteration": 7, "optimizer": {"state": {}}}
    torch.save(found, tmp_path / "a.pth")
    read = read_file(tmp_path / "a.pth")
    assert list(read.tensors) == ["conv.weight", "conv.bias"]
    assert read.others == ("iteration", "optimizer") * len(nest)
    assert len(read.notes) == len(nest) + prefix.count(".")


def test_a_prefix_of_some_names_is_part_of_them(tmp_path):
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "a.pth")
    assert list(read_tensors(tmp_path / "a.pth")) == ["module.a", "b"]


def test_files_from_before_torch_1_6(tmp_path):
    torch.save({"a": torch.arange(3.0)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"a": torch.arange(3.0)}, tmp_path / "old.pkl", _use_new_zipfile_serialization=False)
    for name in ("old.pth", "old.pkl"):
        assert read_tensors(tmp_path / name)["a"].tolist() == [0, 1, 2]


def test_a_zip_archive_by_whatever_name(tmp_path):
    torch.save({"a": torch.arange(3.0)}, tmp_path / "new.pkl")
    assert read_tensors(tmp_path / "new.pkl")["a"].tolist() == [0, 1, 2]


def test_files_that_are_no_state_dict(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list\.pth holds no state dict: expected names and tensors, got list"):
        read_tensors(tmp_path / "list.pth")
    (tmp_path / "empty.pkl").write_bytes(pickle.dumps({"model": {}}))
    with pytest.raises(ValueError, match=r"empty\.pkl holds no state dict"):
        read_tensors(tmp_path / "empty.pkl")
    for name in ("text.pth", "text.pkl", "text.safetensors"):
        (tmp_path / name).write_text("hello")
        with pytest.raises(ValueError, match=rf"{name} cannot be read as"):
            read_tensors(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_tensors(tmp_path / "none.pth")
    torch.save({"a": torch.ones(2).to_sparse()}, tmp_path / "sparse.pth")
    with pytest.raises(ValueError, match="sparse"):
        read_tensors(tmp_path / "sparse.pth")


class Trap:
    """Unpickled by pickle itself, it makes a file."""

    def __init__(self, path, hidden=None):
        self.path, self.hidden = str(path), hidden

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_the_trap_works(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung"))).close()
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pickles_cannot_run_code(tmp_path, protocol):
    contents = {"model": {"a": np.ones(2), "b": Trap(tmp_path / "sprung")}}
    (tmp_path / "trap.pkl").write_bytes(pickle.dumps(contents, protocol))
    with pytest.raises(ValueError, match=r"trap\.pkl is refused: it asks for \w+\.open, which weights do not need"):
        read_tensors(tmp_path / "trap.pkl")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_files_of_torch_cannot_run_code(tmp_path, legacy):
    torch.save({"a": Trap(tmp_path / "sprung")}, tmp_path / "trap.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r"trap\.pth cannot be read as a state dict: it asks for \w+\.open") as error:
        read_tensors(tmp_path / "trap.pth")
    assert "weights_only" not in str(error.value)  # no advice to run it after all
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "asks for os.system"),
        (b"(S'true'\nios\nsystem\n.", "asks for os.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.", "asks for builtins.eval"),
        (b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.", "asks for builtins.getattr"),
        (b"\x80\x04\x8c\x05numpy\x8c\x04load\x93.", "asks for numpy.load"),
        (
            b"\x80\x04\x8c\x0bcollections\x8c\x16OrderedDict.fromkeys.x\x93.",
            "asks for collections.OrderedDict.fromkeys",
        ),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"Pname\n.", "instruction PERSID"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "numbers an object 2147483647"),
    ],
)
def test_refused_instructions(tmp_path, data, message):
    (tmp_path / "a.pkl").write_bytes(data)
    with pytest.raises(ValueError, match=rf"a\.pkl is refused: it.* {message}"):
        read_tensors(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    "state",
    [
        b"(dp0\nV__code__\nNs",  # attributes of a function
        b"(N(dp0\nV__defaults__\nI1\nst",  # … set as those of slots are
    ],
)
def test_what_is_called_cannot_be_changed(tmp_path, state):
    (tmp_path / "a.pkl").write_bytes(b"c_codecs\nencode\n" + state + b"b.")
    with pytest.raises(ValueError, match=r"a\.pkl cannot be read"):
        read_tensors(tmp_path / "a.pkl")
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({"a": np.ones(2)}, 2))
    assert read_tensors(tmp_path / "b.pkl")["a"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array(["text"]), "cannot be read|none of numbers"),
        (np.array([{}], dtype=object), "none of numbers"),
        (np.zeros(2, dtype=[("a", "f4")]), "cannot be read|none of numbers"),
        (np.zeros(2, np.complex64), "none of numbers"),
    ],
)
def test_arrays_that_hold_no_numbers(tmp_path, array, message):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": array}))
    with pytest.raises(ValueError, match=message):
        read_tensors(tmp_path / "a.pkl")


def test_an_array_must_have_its_bytes(tmp_path):
    data = pickle.dumps({"a": np.ones(3, np.float32)}, 2)
    assert data.count(b"K\x01K\x03\x85") == 1  # version and shape
    (tmp_path / "a.pkl").write_bytes(data.replace(b"K\x01K\x03\x85", b"K\x01K\x7f\x85"))
    with pytest.raises(ValueError, match=r"a\.pkl is refused: an array of shape \[127\] and type '<f4' with 12 bytes"):
        read_tensors(tmp_path / "a.pkl")


def rewritten(path, change):
    """An archive of torch.save with its records changed, checksums right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as new:
        for record in old.infolist():
            new.writestr(record.filename, change(record.filename, old.read(record)))
    path.write_bytes(buffer.getvalue())


def test_a_tensor_longer_than_its_record(tmp_path):
    """torch.load believes the pickle about the length of a storage: mapped, it ends where the file does."""
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(3)}, path)

    def longer(name, data):
        if not name.endswith("data.pkl"):
            return data
        assert data.count(b"K\x03tq") == 1
        assert data.count(b"K\x03\x85q") == 1
        million = b"J\x00\x00\x00\x10"
        return data.replace(b"K\x03tq", million + b"tq").replace(b"K\x03\x85q", million + b"\x85q")

    rewritten(path, longer)
    with pytest.raises(ValueError, match=r"a\.pth cannot be read as a state dict"):
        read_tensors(path)


def test_small_files_do_not_become_large(tmp_path):
    """One string made bytes, or an array, again and again; one number said to be a matrix."""
    text = b"X" + (100_000).to_bytes(4, "little") + b"a" * 100_000
    start = b"\x80\x02c_codecs\nencode\nq\x01" + text + b"q\x02X\x06\0\0\0latin1q\x03("
    (tmp_path / "a.pkl").write_bytes(start + b"h\x01h\x02h\x03\x86R" * 1000 + b"l.")
    with pytest.raises(ValueError, match=r"a\.pkl is refused: it makes far more of its bytes than it has"):
        read_tensors(tmp_path / "a.pkl")

    class Shared:
        """Written as an array of bytes that others have as well."""

        def __reduce__(self):
            return (frombuffer, (raw, np.dtype("f4"), (25_000,), "C"))

    frombuffer = np.zeros(1).__reduce_ex__(5)[0]
    raw = bytearray(100_000)  # which pickle writes once
    data = pickle.dumps({str(k): Shared() for k in range(40)}, 5)
    assert len(data) < 110_000
    (tmp_path / "b.pkl").write_bytes(data)
    with pytest.raises(ValueError, match=r"b\.pkl is refused: it makes far more of its bytes than it has"):
        read_tensors(tmp_path / "b.pkl")
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"c\.pth holds no tensor with numbers of its own under 'a'"):
        read_tensors(tmp_path / "c.pth")


def test_damaged_archives(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.full((100,), 7.0)}, path)
    data = path.read_bytes()
    at = data.index(np.full(100, 7.0, np.float32).tobytes())
    path.write_bytes(data[: at + 5] + b"\xff" + data[at + 6 :])
    with pytest.raises(ValueError, match=r"a\.pth cannot be read as a state dict: its record \S+/data/0 is damaged"):
        read_tensors(path)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"a\.pth cannot be read as a state dict"):
        read_tensors(path)


def test_safetensors_of_others(tmp_path):
    safetensors.torch.save_file({"module.a": torch.ones(1)}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    assert list(read_tensors(tmp_path / "a.safetensors")) == ["a"]
