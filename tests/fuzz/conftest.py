"""Compiles and runs the fuzz programs: a torch-free kernel header under AddressSanitizer and UBSan."""

from __future__ import annotations

import runpy
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["-std=c++20", "-O1", "-g", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
FLAGS += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]  # GCC 12's own AVX-512 header sets them off
SANITIZERS = ["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]


def level_flags(level: str) -> list[str]:
    """What setup.py compiles this CPU level with, on top of FLAGS."""
    return runpy.run_path(str(ROOT / "tools" / "cpu_levels.py"))["LEVELS"][level]


@pytest.fixture(scope="session")
def run_fuzz(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """``run_fuzz(stem, rounds, level)`` builds ``tests/fuzz/<stem>_fuzz.cpp`` for a CPU level, runs it with two seeds.

    Skipped, visibly, where there is no g++ with the sanitizers, or no sources (only the installed package).
    """
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    if not (ROOT / "csrc").is_dir():
        pytest.skip("no csrc/: not a source tree")
    command = ["g++", *FLAGS, *SANITIZERS, f"-I{ROOT / 'csrc'}"]
    probe = subprocess.run([*command, "-x", "c++", "-", "-o", "/dev/null"], input=b"int main() {}", capture_output=True)
    if probe.returncode != 0:
        pytest.skip("g++ cannot link AddressSanitizer and UBSan")
    folder = tmp_path_factory.mktemp("fuzz")

    def run(stem: str, rounds: int, level: str = "baseline") -> None:
        program = folder / f"{stem}_{level}"
        source = ROOT / "tests" / "fuzz" / f"{stem}_fuzz.cpp"
        flags = [f"-DFRCNN_CPU_LEVEL={level}", *level_flags(level)]
        subprocess.run([*command, *flags, str(source), "-o", str(program)], check=True)
        for seed in (1, 2):
            done = subprocess.run([program, str(seed), str(rounds)], capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stdout + done.stderr[-4000:]
            assert done.stdout.strip() == f"{rounds} rounds"

    return run
