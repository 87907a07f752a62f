"""Runs the CUDA kernels on the CPU, from the very files nvcc compiles: every case of every ``*_test.cpp`` here.

See README.md for what this finds and how an operator adds its program.
"""

from __future__ import annotations

import re

import pytest

from .building import HERE, MODES, build, run, why_not


def _cases() -> list:
    """One parameter per mode, program and case; ``SLOW_CASE`` marks those that take long."""
    found = []
    for mode in MODES.values():
        for source in sorted(HERE.glob("*_test.cpp")):
            for slow, name in re.findall(r"^(SLOW_)?CASE\((\w+)\)", source.read_text(), re.MULTILINE):
                marks = [pytest.mark.slow] if slow else []
                found.append(pytest.param(mode, source, name, id=f"{mode.name}-{source.stem}-{name}", marks=marks))
    return found


@pytest.mark.parametrize(("mode", "source", "case"), _cases())
def test_case(mode, source, case):
    if why_not(mode):
        pytest.skip(why_not(mode))
    said = run(build(source, mode), mode, case)
    assert said.returncode == 0, said.stdout[-4000:] + said.stderr[-8000:]
