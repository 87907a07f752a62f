"""Runs the CUDA kernels on the CPU, from the very files nvcc compiles: every case of every ``*_test.cpp`` here.

See README.md for what this finds and how an operator adds its program.
"""

from __future__ import annotations

import re

import pytest
from cuda_on_cpu.building import HERE, MODES, ROOT, build, includes, run, why_not


def _cases() -> list:
    """One parameter per mode, program and case; ``SLOW_CASE`` marks those that take long, and under TSan all do."""
    found = []
    for mode in MODES.values():
        for source in sorted(HERE.glob("*_test.cpp")):
            for slow, name in re.findall(r"^(SLOW_)?CASE\((\w+)\)", source.read_text(), re.MULTILINE):
                # One process for a program, or several would compile it at the same time.
                marks = [pytest.mark.xdist_group(f"{mode.name}-{source.stem}")]
                if slow or mode.name == "tsan":
                    marks.append(pytest.mark.slow)
                found.append(pytest.param(mode, source, name, id=f"{mode.name}-{source.stem}-{name}", marks=marks))
    return found


@pytest.mark.parametrize(("mode", "source", "case"), _cases())
def test_case(mode, source, case):
    if why_not(mode):
        pytest.skip(why_not(mode))
    said = run(build(source, mode), mode, case)
    assert said.returncode == 0, said.stdout[-4000:] + said.stderr[-8000:]


def test_every_kernel_file_is_run():
    programs = HERE.glob("*_test.cpp")
    run_here = set().union(*(includes(program) for program in programs))
    missing = set((ROOT / "csrc").rglob("*_kernels.cuh")) - run_here
    assert not missing, "no program in tests/cuda_on_cpu includes them"


def test_kernels_launch_through_the_launcher():
    """``<<< >>>`` in one file only, so that everything around it can run here."""
    files = [*(ROOT / "csrc").rglob("*.cu"), *(ROOT / "csrc").rglob("*.cuh"), *(ROOT / "csrc").rglob("*.h")]
    launching = {file.name for file in files if re.search(r"<<<\w", file.read_text())}
    assert launching == {"cuda_launch.h"}
