"""setup.py says in one sentence what stands in the way of a build, and what to do about it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run_setup(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess:
    """Runs ``setup.py build_ext`` in a copy of the build files, with ``environment`` on top of ours."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "csrc").mkdir(exist_ok=True)
    for package in ("fasterrcnn", "fasterrcnn_ops"):
        (tmp_path / package).mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext"],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def pretend_torch(tmp_path: Path, version: str, cuda: str | None) -> str:
    """A folder whose ``torch`` only knows its version; returns it as a PYTHONPATH."""
    folder = tmp_path / "site"
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text(
        f"__version__ = {version!r}\n"
        f"class version: cuda = {cuda!r}\n"
        "class cuda:\n    is_available = staticmethod(lambda: False)\n"
    )
    return str(folder)


def pretend_toolkit(tmp_path: Path, release: str) -> str:
    home = tmp_path / "toolkit"
    (home / "include").mkdir(parents=True)
    (home / "bin").mkdir()
    (home / "include" / "cuda_runtime.h").touch()
    nvcc = home / "bin" / "nvcc"
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.0'\n")
    nvcc.chmod(0o755)
    return str(home)


def test_no_compiler(tmp_path):
    result = run_setup(tmp_path, CXX="no-such-compiler")
    assert result.returncode != 0
    assert "no C++ compiler: `no-such-compiler` was not found" in result.stderr
    assert "Traceback" not in result.stderr


def test_no_python_headers(tmp_path):
    program = "import sysconfig; sysconfig.get_path = lambda name: '/nowhere'; import runpy, sys; "
    program += "sys.argv = ['setup.py', 'build_ext']; runpy.run_path('setup.py', run_name='__main__')"
    (tmp_path / "setup.py").write_bytes((ROOT / "setup.py").read_bytes())
    path = pretend_torch(tmp_path, "2.13.0", None)
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "CXX": sys.executable},
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    assert "no Python.h in /nowhere: install Python's headers (python3-dev or python3-devel)" in result.stderr
    assert "Traceback" not in result.stderr


def test_torch_too_old(tmp_path):
    result = run_setup(tmp_path, PYTHONPATH=pretend_torch(tmp_path, "2.9.1", None))
    assert result.returncode != 0
    assert "torch 2.9.1 is too old, 2.11 is needed: pip install -U torch" in result.stderr
    assert "Traceback" not in result.stderr


def test_toolkit_of_another_major_version(tmp_path):
    result = run_setup(
        tmp_path,
        PYTHONPATH=pretend_torch(tmp_path, "2.14.1+cu130", "13.0"),
        CUDA_HOME=pretend_toolkit(tmp_path, "11.8"),
        FASTERRCNN_OPS_CUDA="auto",
    )
    assert result.returncode != 0
    assert "is built with CUDA 13.0" in result.stderr
    assert "is 11.8: set CUDA_HOME to a 13.x toolkit, or FASTERRCNN_OPS_CUDA=0 for a CPU build" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("wish", "cuda", "said"),
    [
        ("1", None, "FASTERRCNN_OPS_CUDA=1, but torch 2.13.0 is a CPU-only build"),
        ("auto", None, "building for the CPU only: torch 2.13.0 is a CPU-only build"),
        ("0", "13.0", "building for the CPU only: FASTERRCNN_OPS_CUDA=0"),
    ],
)
def test_says_why_there_is_no_cuda(tmp_path, wish, cuda, said):
    # Past this line the pretended torch has nothing to build with, so only what was said counts.
    result = run_setup(tmp_path, PYTHONPATH=pretend_torch(tmp_path, "2.13.0", cuda), FASTERRCNN_OPS_CUDA=wish)
    assert said in result.stderr


def test_no_torch(tmp_path):
    # -S: without site-packages this interpreter has no torch; setuptools is handed in alone.
    import setuptools

    only_setuptools = tmp_path / "only"
    only_setuptools.mkdir()
    for package in ("setuptools", "_distutils_hack"):
        (only_setuptools / package).symlink_to(Path(setuptools.__file__).parents[1] / package)
    program = "import sysconfig; sysconfig.get_path = lambda name: '/nowhere'; import runpy, sys; "
    program += "sys.argv = ['setup.py', 'build_ext']; runpy.run_path('setup.py', run_name='__main__')"
    (tmp_path / "setup.py").write_bytes((ROOT / "setup.py").read_bytes())
    result = subprocess.run(
        [sys.executable, "-S", "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(only_setuptools)},
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    assert "no torch to build against" in result.stderr
    assert "Traceback" not in result.stderr
