"""Compiles the programs that compare the geometry headers bit by bit on the host."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["-std=gnu++20", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]  # gnu: __float128


@pytest.fixture(scope="module")
def compile_geometry(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``compile_geometry(stem, *flags)`` builds ``tests/geometry/<stem>.cpp``; skipped without g++ or sources."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    if not (ROOT / "csrc" / "geometry").is_dir():
        pytest.skip("no csrc/: not a source tree")

    def build(stem: str, *flags: str) -> Path:
        output = tmp_path_factory.mktemp("geometry") / stem
        source = Path(__file__).with_name(f"{stem}.cpp")
        subprocess.run(["g++", *FLAGS, *flags, f"-I{ROOT / 'csrc'}", str(source), "-o", str(output)], check=True)
        return output

    return build
