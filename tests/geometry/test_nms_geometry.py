"""The IoU decision and the sort keys, which host and device share, compared bit by bit on many millions of cases."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("nms_geometry")  # the program is compiled once


@pytest.fixture(scope="module")
def program(compile_geometry) -> Path:
    return compile_geometry("nms_geometry")


def compare(program: Path, case: str, millions: int) -> None:
    said = subprocess.run([program, case, str(millions)], capture_output=True, text=True, timeout=900)
    assert said.returncode == 0, said.stdout + said.stderr
    assert int(re.match(r"\d+", said.stdout)[0]) >= millions * 1_000_000


CASES = {
    "near_ties_float": 40,
    "near_ties_double": 15,
    "exact_quotients_float": 8,
    "exact_quotients_double": 4,
    "any_bits_float": 10,
    "any_bits_double": 5,
    "boxes_float": 10,
    "boxes_double": 5,
    "threshold_rounding": 4,
    "score_keys": 10,
    "class_keys": 10,
}


@pytest.mark.parametrize("case", CASES)
def test_bit_by_bit(program, case):
    compare(program, case, CASES[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_bit_by_bit_at_length(program, case):
    compare(program, case, 25 * CASES[case])
