"""Loading: lazily, all operators at once, and with an explanation where it fails."""

from __future__ import annotations

import inspect
import textwrap

import pytest
import support
import torch

import fasterrcnn_ops
from fasterrcnn_ops import _library


def in_new_process(code: str) -> str:
    run = support.run_python("-c", textwrap.dedent(code))
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_importing_the_package_does_not_import_torch():
    assert in_new_process("import sys, fasterrcnn_ops; print('torch' in sys.modules)").strip() == "False"


def test_torch_ops_registers_every_operator():
    names = in_new_process(
        """
        import torch, fasterrcnn_ops.torch_ops
        for name in ("nms", "batched_nms", "nms_padded", "roi_align_forward", "roi_align_backward", "roi_pool_forward",
                     "roi_pool_backward", "multi_scale_roi_align_forward", "multi_scale_roi_align_backward",
                     "grid_anchors", "encode_boxes", "decode_boxes", "box_iou", "soft_nms", "sample_candidates"):
            getattr(torch.ops.fasterrcnn_ops, name).default
            print(name)
        """
    )
    assert len(names.split()) == 15


@pytest.mark.parametrize("first", ["import fasterrcnn_ops.nms", "import fasterrcnn_ops.torch_ops", "pass"])
def test_a_function_is_not_hidden_by_the_module_of_its_name(first):
    code = f"""
    {first}
    import fasterrcnn_ops
    from fasterrcnn_ops import nms
    from fasterrcnn_ops.roi_align import roi_align
    print(callable(fasterrcnn_ops.nms), callable(nms), fasterrcnn_ops.roi_align is roi_align)
    """
    assert in_new_process(code).split() == ["True"] * 3


@pytest.mark.parametrize("name", fasterrcnn_ops.__all__)
def test_public_names_are_documented(name):
    doc = inspect.getdoc(getattr(fasterrcnn_ops, name))
    assert doc is not None
    assert len(doc.splitlines()) >= 3, f"{name} needs a docstring with shapes, dtypes and errors"


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'nmss'"):
        _ = fasterrcnn_ops.nmss


def test_dir_lists_the_public_names():
    assert set(fasterrcnn_ops.__all__) <= set(dir(fasterrcnn_ops))


def test_module_prints_versions():
    run = support.run_python("-m", "fasterrcnn_ops")
    assert run.returncode == 0, run.stderr
    assert fasterrcnn_ops.__version__ in run.stdout
    assert torch.__version__ in run.stdout
    assert "built against torch" in run.stdout
    assert f"this machine: {', '.join(_library.cpu_levels())}" in run.stdout
    assert "_numpy.cpython-" in run.stdout


@pytest.fixture
def not_loaded(monkeypatch):
    monkeypatch.setattr(_library, "_loaded", {})


def test_missing_library_in_the_source_folder(not_loaded, monkeypatch, tmp_path):
    (tmp_path / "csrc").mkdir()
    monkeypatch.setattr(_library, "_folder", tmp_path / "fasterrcnn_ops")
    with pytest.raises(ImportError, match="nothing has been compiled"):
        _library.load()


def test_missing_library_in_an_installation(not_loaded, monkeypatch, tmp_path):
    monkeypatch.setattr(_library, "_folder", tmp_path / "fasterrcnn_ops")
    with pytest.raises(ImportError, match="installation is incomplete"):
        _library.load()


def test_broken_library(not_loaded, monkeypatch, tmp_path):
    (tmp_path / "_cpu.abi3.so").write_bytes(b"not a library")
    monkeypatch.setattr(_library, "_folder", tmp_path)
    with pytest.raises(ImportError, match=r"could not load _cpu\.abi3\.so.*Reinstall"):
        _library.load()


def test_broken_cuda_library_is_a_warning(not_loaded, monkeypatch, tmp_path):
    monkeypatch.setattr(_library, "_find", {"_cpu": _library._find("_cpu"), "_cuda": tmp_path / "_cuda.so"}.get)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    (tmp_path / "_cuda.so").write_bytes(b"not a library")
    with pytest.warns(RuntimeWarning, match="CUDA kernels could not be loaded"):
        _library.load()
    assert "cpu" in _library._loaded


def test_old_torch(not_loaded, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(ImportError, match=r"needs torch 2\.11 or newer"):
        _library.load()
