"""Builds fasterrcnn_ops/_cpu.*.so and the NumPy module _numpy.*.so always, _cuda.*.so where nvcc and a CUDA torch are.

Reads FASTERRCNN_OPS_CUDA (0: CPU build, 1: fail without CUDA), CUDA_HOME, TORCH_CUDA_ARCH_LIST and CXX.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup

sys.path.insert(0, str(Path("tools").resolve()))  # cpu_levels.py
OLDEST_TORCH = (2, 11)
OLDEST = ".".join(map(str, OLDEST_TORCH))
TARGET = "-DTORCH_TARGET_VERSION=0x{:02x}{:02x}000000000000ULL".format(*OLDEST_TORCH)  # the stable ABI asked of torch


def stop(message: str) -> None:
    raise SystemExit(f"\nfasterrcnn-ops: {message}\n")


def is_recent(version: str) -> bool:
    return tuple(map(int, re.findall(r"\d+", version)[:2])) >= OLDEST_TORCH


def find_torch():
    """This interpreter's torch, also where pip's build isolation hides it; None if there is none to build against."""
    try:
        import torch
    except ImportError:
        for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
            file = Path(folder, "torch", "version.py")
            version = re.search(r"__version__ = '(.+)'", file.read_text()) if file.exists() else None
            if version and is_recent(version[1]):
                sys.path.append(folder)  # at the end: the isolated setuptools stays in front
                import torch

                return torch
        return None
    if not is_recent(torch.__version__):
        stop(f"torch {torch.__version__} is too old, {OLDEST} is needed: pip install -U torch")
    return torch


def find_cuda_home() -> Path | None:
    """A toolkit folder that really holds one: `nvcc` on PATH can be a wrapper script outside of it."""
    nvcc = shutil.which("nvcc")
    beside_nvcc = Path(nvcc).resolve().parent.parent if nvcc else None
    homes = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), beside_nvcc, "/usr/local/cuda")
    parts = ("include/cuda_runtime.h", "bin/nvcc")
    return next((Path(home) for home in homes if home and all(Path(home, part).exists() for part in parts)), None)


def cuda_release(torch) -> str | None:
    """The toolkit's release if the CUDA library can be built; otherwise says in one line why not."""
    wish, home, why_not = os.environ.get("FASTERRCNN_OPS_CUDA", "auto"), find_cuda_home(), None
    if wish == "0":
        why_not = "FASTERRCNN_OPS_CUDA=0"
    elif torch.version.cuda is None:
        why_not = f"torch {torch.__version__} is a CPU-only build"
    elif home is None:
        why_not = "no CUDA toolkit (nvcc) was found; set CUDA_HOME if there is one"
    if why_not and wish == "1":
        stop(f"FASTERRCNN_OPS_CUDA=1, but {why_not}")
    if why_not:
        print(f"fasterrcnn-ops: building for the CPU only: {why_not}", file=sys.stderr)
        return None
    said = subprocess.run([home / "bin" / "nvcc", "--version"], capture_output=True, text=True)
    release = re.search(r"release (\d+\.\d+)", said.stdout)
    major = torch.version.cuda.split(".")[0]
    if release is None or release[1].split(".")[0] != major:
        there = f"the toolkit in {home} is {release[1] if release else 'unreadable'}"
        advice = f"set CUDA_HOME to a {major}.x toolkit, or FASTERRCNN_OPS_CUDA=0 for a CPU build"
        stop(f"torch {torch.__version__} is built with CUDA {torch.version.cuda}, {there}: {advice}")
    os.environ["CUDA_HOME"] = str(home)
    if not torch.cuda.is_available():
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")
    return release[1]


def extensions(torch) -> dict:
    """The libraries and the build_ext command that builds them, as arguments of setup()."""
    if shutil.which(compiler := os.environ.get("CXX", "c++").split()[0]) is None:
        stop(f"no C++ compiler: `{compiler}` was not found; install g++ or clang++, or set CXX")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        stop(f"no Python.h in {sysconfig.get_path('include')}: install Python's headers (python3-dev or python3-devel)")
    release = cuda_release(torch)  # sets CUDA_HOME, which cpp_extension reads when it is imported
    from cpu_levels import CXX_FLAGS, DROP_UNUSED, with_cpu_levels
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    built = f"torch {torch.__version__}" + (f" with CUDA {release}" if release else "")
    nvcc = ["-O3", "-std=c++20", "-fmad=false", "-Xcompiler=-fvisibility=hidden", "-DUSE_CUDA", TARGET]
    flags = {"cxx": [*CXX_FLAGS, TARGET, f'-DFRCNN_BUILD_INFO="built against {built}"'], "nvcc": nvcc}
    folders = [str(Path("csrc").resolve()), str(Path(torch.__file__).parent / "include")]  # pybind11 comes with torch
    files = sorted(map(str, Path("csrc").rglob("*.*")))

    def library(kind, name: str, ending: str, but: tuple = (), **options):
        sources = [file for file in files if file.endswith(ending) and not file.endswith(but)]
        return kind(f"fasterrcnn_ops.{name}", sources, include_dirs=folders, depends=files, **options)

    operators = {"extra_compile_args": flags, "py_limited_api": True}  # no Python in them: any version will do
    modules = [library(CppExtension, "_cpu", ".cpp", ("cpu_level.cpp", "cpu_levels.cpp", "_numpy.cpp"), **operators)]
    modules += [library(CUDAExtension, "_cuda", "_cuda.cu", **operators)] if release else []
    modules += [library(Extension, "_numpy", "_numpy.cpp", extra_compile_args={"cxx": CXX_FLAGS}, **DROP_UNUSED)]
    build_ext = BuildExtension.with_options(use_ninja=shutil.which("ninja") is not None)
    return {"ext_modules": modules, "cmdclass": {"build_ext": with_cpu_levels(build_ext, Path("csrc"))}}


torch = find_torch()
if {"egg_info", "dist_info", "sdist"} & set(sys.argv):  # pip asking what to install before it builds
    setup(setup_requires=[] if torch else [f"torch>={OLDEST}"])
elif torch is None:
    stop(f"no torch to build against in {sys.executable}: pip install 'torch>={OLDEST}' first")
else:
    setup(**extensions(torch))
