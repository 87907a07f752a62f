"""Compiles the torch-free RoI kernels with AddressSanitizer and UBSan and feeds them random and hostile inputs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fasterrcnn_ops import _library

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["-std=c++20", "-O1", "-g", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
SANITIZERS = ["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]


@pytest.fixture(scope="module")
def compiler() -> list[str]:
    """g++ with the sanitizers, if this machine has them and the sources are here (not only the installed package)."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    if not (ROOT / "csrc" / "roi_align").is_dir():
        pytest.skip("no csrc/: not a source tree")
    command = ["g++", *FLAGS, *SANITIZERS, f"-I{ROOT / 'csrc'}"]
    probe = subprocess.run([*command, "-x", "c++", "-", "-o", "/dev/null"], input=b"int main() {}", capture_output=True)
    if probe.returncode != 0:
        pytest.skip("g++ cannot link AddressSanitizer and UBSan")
    return command


@pytest.mark.parametrize("room", ["roi_align", "roi_pool"])
def test_roi_kernels(compiler, tmp_path, room):
    build_and_run(compiler, room, tmp_path, 6000)


@pytest.mark.parametrize("level", _library.cpu_levels())
@pytest.mark.parametrize("room", ["roi_align_levels", "roi_pool_levels"])
def test_kernels_of_a_level(compiler, tmp_path, room, level):
    """Those that this machine can run; each has the bits of the portable kernel."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from cpu_levels import LEVELS
    finally:
        sys.path.pop(0)
    # GCC 12's own AVX-512 header sets off uninitialized.
    flags = [f"-DFRCNN_CPU_LEVEL={level}", *LEVELS[level], "-Wno-uninitialized", "-Wno-maybe-uninitialized"]
    build_and_run([*compiler, *flags], room, tmp_path, 2000)


def build_and_run(command: list[str], room: str, folder: Path, rounds: int) -> None:
    program = folder / f"{room}_fuzz"
    source = ROOT / "tests" / "fuzz" / f"{room}_fuzz.cpp"
    subprocess.run([*command, str(source), "-o", str(program)], check=True)
    for seed in (1, 2):
        run = subprocess.run([program, str(seed), str(rounds)], capture_output=True, text=True, timeout=300)
        assert run.returncode == 0, run.stdout + run.stderr[-4000:]
        assert run.stdout.strip() == f"{rounds} rounds"
