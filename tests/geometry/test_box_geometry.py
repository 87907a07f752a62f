"""Anchors, box coding and pairwise IoU, which host and device share, compared bit by bit on the host."""

from __future__ import annotations

import subprocess

import pytest


@pytest.fixture(scope="module")
def program(compile_geometry):
    return compile_geometry("box_geometry")


@pytest.mark.parametrize("case", ["anchor_at", "encode", "decode", "clamp", "pairwise_iou", "exp", "log"])
def test_bit_by_bit(program, case):
    said = subprocess.run([program, case, "1000000"], capture_output=True, text=True, timeout=300)
    assert said.returncode == 0, said.stdout + said.stderr
    assert int(said.stdout) >= 1_000_000
