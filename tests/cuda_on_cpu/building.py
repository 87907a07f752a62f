"""Compiles the test programs of this folder, one binary per program and mode, kept in ``.cache/`` between runs.

A binary is found again by the content of every file it includes, the compiler and the flags, so nothing is ever stale
and nothing is compiled twice. Several test runs may share the cache.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".cache" / "cuda_on_cpu"
INCLUDE = (HERE, HERE / "shim", ROOT / "csrc")

COMPILER = "g++"
COMMON = ("-std=c++20", "-g", "-ffp-contract=off")
# Kernels: pragmas (unroll) are nvcc's; a .cuh may hold functions that one program does not need.
KERNELS = ("-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-function")
# The runtime is never sanitized (see shim/runtime.h); loops must not become calls that a sanitizer intercepts.
RUNTIME = ("-O2", "-Wall", "-Wextra", "-fno-tree-loop-distribute-patterns")


@dataclass(frozen=True)
class Mode:
    """One way to compile and run: flags for kernels, a macro for the runtime, what to ask of the sanitizer."""

    name: str
    flags: tuple[str, ...]
    define: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


MODES = {
    mode.name: mode
    for mode in (
        # Warnings are errors here only: under sanitizers g++ sees things.
        Mode("plain", ("-O2", "-Werror")),
        Mode(
            "asan",
            ("-O1", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"),
            ("-DCUDA_ON_CPU_ASAN",),
            # Leaks are looked for with ptrace, which containers often forbid; kernels do not allocate anyway.
            (("ASAN_OPTIONS", "detect_leaks=0"), ("UBSAN_OPTIONS", "print_stacktrace=1")),
        ),
        Mode(
            "tsan",
            ("-O1", "-fsanitize=thread"),
            ("-DCUDA_ON_CPU_TSAN",),
            (("TSAN_OPTIONS", "halt_on_error=1"),),
        ),
    )
}


@functools.cache
def compiler_version() -> str:
    return subprocess.run([COMPILER, "--version"], capture_output=True, text=True, check=True).stdout


def includes(source: Path) -> set[Path]:
    """``source`` and every file of this repository it includes, directly or not."""
    found: set[Path] = set()
    waiting = [source]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        for name in re.findall(r'^\s*#\s*include\s*"([^"]+)"', file.read_text(), re.MULTILINE):
            candidates = (folder / name for folder in (file.parent, *INCLUDE))
            waiting += [candidate.resolve() for candidate in candidates if candidate.exists()][:1]
    return found


def _cached(name: str, source: Path, command: list[str], inputs: list[Path]) -> Path:
    """The output of ``command`` (given without ``-o``), from the cache if it was made of the same bytes before."""
    key = hashlib.sha256()
    for part in (compiler_version(), *(word.replace(str(ROOT), "") for word in command)):
        key.update(part.encode() + b"\0")
    for file in sorted({*includes(source), *inputs}):
        key.update(file.name.encode() + b"\0" + file.read_bytes())
    output = CACHE / f"{name}-{key.hexdigest()[:16]}"
    if not output.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:  # renamed when whole: others may build the same
            made = Path(folder, "made")
            run = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True)
            if run.returncode != 0:
                raise RuntimeError(f"{' '.join(command)}\n{run.stderr[-6000:]}")
            os.replace(made, output)
        for old in CACHE.glob(f"{name}-*"):
            if old != output:
                old.unlink(missing_ok=True)
    return output


def build(source: Path, mode: Mode) -> Path:
    """The program of ``source`` compiled for ``mode``."""
    include = [f"-I{folder}" for folder in INCLUDE]
    runtime_source = HERE / "shim" / "runtime.cpp"
    command = [COMPILER, *COMMON, *RUNTIME, *mode.define, *include, "-c", str(runtime_source)]
    runtime = _cached(f"runtime-{mode.name}", runtime_source, command, [])
    command = [COMPILER, *COMMON, *KERNELS, *mode.flags, *include, str(source), "-xnone", str(runtime)]
    return _cached(f"{source.stem}-{mode.name}", source, command, [runtime])


def run(program: Path, mode: Mode, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess:
    """Runs a built program; stdout and stderr come as text."""
    command = [*_prefix(mode), str(program), *arguments]
    environment = {**os.environ, **dict(mode.environment)}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)


@functools.cache
def _prefix(mode: Mode) -> tuple[str, ...]:
    """An older ThreadSanitizer cannot start where addresses are much randomised; ``setarch -R`` stops that."""
    return () if mode.name != "tsan" or _starts(mode, ()) else ("setarch", "-R")


def _starts(mode: Mode, prefix: tuple[str, ...]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "empty")
        command = [COMPILER, *mode.flags, "-x", "c++", "-", "-o", str(program)]
        try:
            if subprocess.run(command, input=b"int main() {}", capture_output=True).returncode != 0:
                return False
            return subprocess.run([*prefix, program], capture_output=True).returncode == 0
        except OSError:
            return False


@functools.cache
def why_not(mode: Mode) -> str | None:
    """Why this machine cannot run ``mode``, or None if it can."""
    if not (ROOT / "csrc").is_dir():
        return "no csrc/: not a source tree"
    if shutil.which(COMPILER) is None:
        return f"no C++ compiler: {COMPILER} was not found"
    if not _starts(mode, _prefix(mode)):
        return f"{COMPILER} cannot build and start a program with {' '.join(mode.flags)}"
    return None
