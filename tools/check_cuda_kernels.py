"""Compiles every CUDA file for every architecture and says what each kernel takes of a multiprocessor. Needs no card.

    python tools/check_cuda_kernels.py [--arch 80,90] [--sass] [--torch-include FOLDER] [--jobs N] [FILE...]

Warnings of nvcc and ptxas are errors. One line per kernel and architecture: registers per thread, static shared
memory, stack and spilled bytes. A kernel of ours fails the check if it spills, or if it has a stack frame (an array the
compiler could not keep in registers) without an entry in ``EXPLAINED_STACK``; kernels of CUB are listed and left alone.
With ``--sass`` the machine code of ours is read too (kernel_sass.py): it must not access local memory, and must access
global memory as widely as designed. Failures are listed, and the exit code is 1. Torch is needed for its headers only,
any build of 2.11 or newer.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import kernel_sass

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURES = "80,86,89,90,100,120"
# As in setup.py; the target is the oldest supported torch, 2.11.
FLAGS = ["-O3", "-std=c++20", "-fmad=false", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020b000000000000ULL"]
CHECKS = ["-Werror", "all-warnings", "-Xptxas", "-v", "-Xcompiler", "-Wall"]

# Kernel name -> why it needs a stack frame.
EXPLAINED_STACK: dict[str, str] = {}


@dataclass
class Kernel:
    """What ptxas says of one kernel, in bytes except for the registers."""

    name: str
    arch: str
    registers: int = 0
    shared: int = 0
    stack: int = 0
    spilled: int = 0

    @property
    def is_ours(self) -> bool:
        return self.name.startswith("frcnn::")

    def failure(self) -> str | None:
        where = f"{self.name} on sm_{self.arch}"
        if self.is_ours and self.spilled:
            return f"{where} spills {self.spilled} bytes"
        if self.is_ours and self.stack and re.split("[<(]", self.name.split("::")[-1])[0] not in EXPLAINED_STACK:
            return f"{where} has a stack frame of {self.stack} bytes"
        return None


def find_cuda_home() -> Path:
    """A toolkit folder that really holds one, in the order of setup.py."""
    nvcc = shutil.which("nvcc")
    beside_nvcc = Path(nvcc).resolve().parent.parent if nvcc else None
    homes = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), beside_nvcc, "/usr/local/cuda")
    parts = ("include/cuda_runtime.h", "bin/nvcc")
    found = next((Path(home) for home in homes if home and all(Path(home, part).exists() for part in parts)), None)
    if found is None:
        raise SystemExit("no CUDA toolkit (nvcc) was found; set CUDA_HOME if there is one")
    return found


def find_torch_include() -> Path:
    """The headers of the torch beside this interpreter, without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("no torch beside this interpreter: give --torch-include")
    return Path(spec.submodule_search_locations[0], "include")


def demangled(names: list[str], cuda_home: Path) -> dict[str, str]:
    """Readable names without parameters, ``(anonymous namespace)`` and return type."""
    filt = cuda_home / "bin" / "cu++filt"
    command = [str(filt)] if filt.exists() else ["c++filt"]
    lines = subprocess.run(command, input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return {name: _short(line) for name, line in zip(names, lines.splitlines(), strict=True)}


def _short(signature: str) -> str:
    text = re.sub(r"(<unnamed>|\(anonymous namespace\)|_GLOBAL__N__\w+)::", "", signature)
    text = re.sub(r"\((?:int|bool|unsigned int|long)\)(?=-?\d)", "", text)  # the type of a template argument
    depth = 0
    for i, char in enumerate(text):
        depth += (char == "<") - (char == ">")
        if char == "(" and depth == 0:
            text = text[:i]
            break
    return text.removeprefix("void ").strip()


def kernels_in(log: str, cuda_home: Path) -> list[Kernel]:
    """Parses the output of ``ptxas -v``."""
    kernels: dict[tuple[str, str], Kernel] = {}
    entry = function = None
    for line in log.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)' for 'sm_(\w+)'", line):
            entry = kernels[match.groups()] = Kernel(*match.groups())
        elif match := re.search(r"Function properties for '?(\w+)", line):
            function = match[1]
        elif entry and (
            match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill", line)
        ):
            # A device function that was not inlined counts for the kernel it was compiled with.
            stack, stores, loads = map(int, match.groups())
            owner = kernels.get((function, entry.arch), entry)
            owner.stack += stack
            owner.spilled += stores + loads
        elif entry and (match := re.search(r"Used (\d+) registers", line)):
            entry.registers = int(match[1])
            shared = re.search(r"(\d+) bytes smem", line)
            entry.shared = int(shared[1]) if shared else 0
    names = demangled([kernel.name for kernel in kernels.values()], cuda_home)
    for kernel in kernels.values():
        kernel.name = names[kernel.name]
    return list(kernels.values())


@dataclass
class Compiled:
    """A file for one architecture: what the compiler said, whether that is an error, and the machine code if read."""

    file: Path
    arch: str
    log: str
    error: str | None = None
    functions: dict[str, kernel_sass.Opcodes] | None = None


def compile_one(
    file: Path, arch: str, with_host: bool, cuda_home: Path, torch_include: Path, nvdisasm: Path | None
) -> Compiled:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(str(cuda_home / "bin" / "nvcc"), *FLAGS, *CHECKS),
            *(f"-I{ROOT / 'csrc'}", "-isystem", str(torch_include)),
            f"-gencode=arch=compute_{arch},code=sm_{arch}",
            *("--keep", "--keep-dir", folder) * bool(with_host and nvdisasm),  # the cubin on the way to the object
            *("-c" if with_host else "-cubin", str(file), "-o"),
            str(Path(folder, "object" if with_host else "kernels.cubin")),
        ]
        run = subprocess.run(command, capture_output=True, text=True)
        log = run.stdout + run.stderr
        if run.returncode != 0:
            said = "\n".join(
                line for line in log.splitlines() if "ptxas info" not in line and "bytes stack" not in line
            )
            return Compiled(file, arch, log, f"{file.name} for sm_{arch}:\n{said[-4000:]}")
        functions = None
        if nvdisasm:
            (cubin,) = Path(folder).glob("*.cubin")
            mangled = kernel_sass.disassemble(cubin, nvdisasm)
            names = demangled(list(mangled), cuda_home)
            functions = {names[name]: opcodes for name, opcodes in mangled.items()}
    return Compiled(file, arch, log, None, functions)


def print_table(kernels: list[Kernel]) -> None:
    """Our kernels, one a line; CUB's, whose names fill a screen each, are counted."""
    ours = [kernel for kernel in kernels if kernel.is_ours]
    width = max((len(kernel.name) for kernel in ours), default=6)
    print(f"{'kernel':{width}}  {'arch':>4}  {'registers':>9}  {'shared':>6}  {'stack':>5}  {'spilled':>7}")
    for k in sorted(ours, key=lambda k: (k.name, int(re.sub(r"\D", "", k.arch)))):
        print(f"{k.name:{width}}  {k.arch:>4}  {k.registers:>9}  {k.shared:>6}  {k.stack:>5}  {k.spilled:>7}")
    if others := [kernel for kernel in kernels if not kernel.is_ours]:
        print(f"and {len(others)} kernels of CUB, {sum(kernel.spilled > 0 for kernel in others)} of them with spills")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="default: csrc/**/*_cuda.cu")
    parser.add_argument("--arch", default=ARCHITECTURES, help=f"comma-separated, default {ARCHITECTURES}")
    parser.add_argument("--sass", action="store_true", help="check the machine code too; needs nvdisasm")
    parser.add_argument("--torch-include", type=Path, help="default: that of the torch beside this interpreter")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()

    cuda_home, include = find_cuda_home(), options.torch_include or find_torch_include()
    if not (include / "torch" / "csrc" / "stable" / "library.h").exists():
        raise SystemExit(f"{include} holds no headers of torch 2.11 or newer")
    files = [file.resolve() for file in options.files] or sorted((ROOT / "csrc").rglob("*_cuda.cu"))
    if not files:
        raise SystemExit("nothing to compile")
    nvdisasm = kernel_sass.find_nvdisasm(cuda_home) if options.sass else None
    # The host half of a file is the same for all architectures: once is enough to see its warnings.
    architectures = options.arch.split(",")
    jobs = [(file, arch, i == 0) for file in files for i, arch in enumerate(architectures)]
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda job: compile_one(*job, cuda_home, include, nvdisasm), jobs))

    kernels = [kernel for result in results if not result.error for kernel in kernels_in(result.log, cuda_home)]
    print_table(kernels)
    failures = [result.error for result in results if result.error] + [line for k in kernels if (line := k.failure())]
    for result in results:
        if result.functions is not None:
            failures += kernel_sass.failures(result.file.stem, result.arch, result.functions)
    if not failures and not any(kernel.is_ours for kernel in kernels):
        failures = ["ptxas reported no kernel of ours: has its output changed?"]
    print("\n".join(failures), file=sys.stderr)
    read = ", machine code read" if nvdisasm else ""
    print(f"{len(files)} files, {len(architectures)} architectures{read}: {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
