"""Sampling grids, bilinear taps and pooled pixels, which host and device share, compared bit by bit on the host."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("roi_geometry.cpp")
FLAGS = ["-std=gnu++20", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]  # gnu: __float128
SANITIZERS = ["-fsanitize=undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
CASES = ("bilinear", "samples", "sampled_axis", "pooled", "tap_walk")


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    if not (ROOT / "csrc" / "geometry").is_dir():
        pytest.skip("no csrc/: not a source tree")
    output = tmp_path_factory.mktemp("geometry") / "roi_geometry"
    command = ["g++", *FLAGS, *SANITIZERS, f"-I{ROOT / 'csrc'}", str(SOURCE), "-o", str(output)]
    subprocess.run(command, check=True)
    return output


@pytest.mark.parametrize("dtype", ["float", "double"])
@pytest.mark.parametrize("case", CASES)
def test_bit_by_bit(program, case, dtype):
    said = subprocess.run([program, f"{case}_{dtype}", "1000"], capture_output=True, text=True, timeout=300)
    assert said.returncode == 0, said.stdout + said.stderr
    assert int(said.stdout) >= 1_000_000
