"""Sampling grids, bilinear taps and pooled pixels, which host and device share, compared bit by bit on the host."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SANITIZERS = ["-fsanitize=undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
CASES = ("bilinear", "samples", "sampled_axis", "pooled", "tap_walk")


pytestmark = pytest.mark.xdist_group("roi_geometry")  # the program is compiled once


@pytest.fixture(scope="module")
def program(compile_geometry) -> Path:
    return compile_geometry("roi_geometry", *SANITIZERS)


@pytest.mark.parametrize("dtype", ["float", "double"])
@pytest.mark.parametrize("case", CASES)
def test_bit_by_bit(program, case, dtype):
    said = subprocess.run([program, f"{case}_{dtype}", "1000"], capture_output=True, text=True, timeout=300)
    assert said.returncode == 0, said.stdout + said.stderr
    assert int(said.stdout) >= 1_000_000
