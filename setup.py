"""Builds the two operator libraries: fasterrcnn_ops/_cpu.*.so always, fasterrcnn_ops/_cuda.*.so where nvcc and a CUDA torch are.

Environment: FASTERRCNN_OPS_CUDA=0 (CPU build) or 1 (fail rather than build for the CPU alone), CUDA_HOME, TORCH_CUDA_ARCH_LIST, CXX.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import sys
import sysconfig

from setuptools import setup

OLDEST_TORCH = (2, 11)
TARGET = f"0x{OLDEST_TORCH[0]:02x}{OLDEST_TORCH[1]:02x}000000000000"  # the stable ABI this binary asks of torch


def stop(message: str) -> None:
    raise SystemExit(f"\nfasterrcnn-ops: {message}\n")


def version_of(torch) -> tuple[int, int]:
    return tuple(int(part) for part in re.match(r"(\d+)\.(\d+)", torch.__version__).groups())


def find_torch():
    """The torch to build against: this interpreter's, also where pip's build isolation hides it; None asks pip for one."""
    try:
        import torch
    except ImportError:
        for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
            text = next(iter(glob.glob(os.path.join(folder, "torch", "version.py"))), None)
            found = text and re.search(r"__version__ = '(\d+)\.(\d+)", open(text).read())
            if found and tuple(map(int, found.groups())) >= OLDEST_TORCH:
                sys.path.append(folder)  # at the end: the isolated setuptools stays in front
                import torch

                return torch
        return None
    if version_of(torch) < OLDEST_TORCH:
        stop(f"torch {torch.__version__} is too old, {'.'.join(map(str, OLDEST_TORCH))} is needed: pip install -U torch")
    return torch


def find_cuda_home() -> str | None:
    """A toolkit folder that really holds one: `nvcc` on PATH can be a wrapper script outside of it."""
    nvcc = shutil.which("nvcc")
    beside_nvcc = os.path.dirname(os.path.dirname(os.path.realpath(nvcc))) if nvcc else None
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), beside_nvcc, "/usr/local/cuda"):
        if home and os.path.exists(os.path.join(home, "include", "cuda_runtime.h")):
            if os.path.exists(os.path.join(home, "bin", "nvcc")):
                return home
    return None


def cuda_release(torch) -> str | None:
    """The toolkit's release if the CUDA library can be built; otherwise says in one line why not."""
    wish = os.environ.get("FASTERRCNN_OPS_CUDA", "auto")
    home = find_cuda_home()
    why_not = None
    if wish == "0":
        why_not = "FASTERRCNN_OPS_CUDA=0"
    elif torch.version.cuda is None:
        why_not = f"torch {torch.__version__} is a CPU-only build"
    elif home is None:
        why_not = "no CUDA toolkit (nvcc) found; set CUDA_HOME if there is one"
    if why_not:
        if wish == "1":
            stop(f"FASTERRCNN_OPS_CUDA=1, but {why_not}")
        print(f"fasterrcnn-ops: building for the CPU only: {why_not}", file=sys.stderr)
        return None
    os.environ["CUDA_HOME"] = home
    said = subprocess.run([os.path.join(home, "bin", "nvcc"), "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release (\d+\.\d+)", said)
    if release is None or release[1].split(".")[0] != torch.version.cuda.split(".")[0]:
        stop(
            f"torch {torch.__version__} was built with CUDA {torch.version.cuda}, but the toolkit in {home} is "
            f"{release[1] if release else 'unreadable'}: set CUDA_HOME to a {torch.version.cuda.split('.')[0]}.x toolkit, "
            "or FASTERRCNN_OPS_CUDA=0 for a CPU build"
        )
    if not torch.cuda.is_available():
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")
    return release[1]


def extensions(torch) -> list:
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None:
        stop(f"no C++ compiler: `{compiler}` was not found; install g++ or clang++, or set CXX")
    release = cuda_release(torch)  # sets CUDA_HOME, which cpp_extension reads when it is imported
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    here = f"torch {torch.__version__}" + (f", CUDA {release}" if release else "")
    common = {"include_dirs": [os.path.abspath("csrc")], "py_limited_api": True}
    defines = [f"-DTORCH_TARGET_VERSION={TARGET}ULL", f'-DFRCNN_BUILD_INFO="built against {here}"']
    # No contraction to FMA: CPU, CUDA and the references must round alike.
    cxx = ["-O3", "-g0", "-std=c++20", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", *defines]
    nvcc = ["-O3", "-std=c++20", "-fmad=false", "-DUSE_CUDA", "-Xcompiler=-fvisibility=hidden", *defines[:1]]

    def sources(pattern: str) -> list[str]:
        found = glob.glob(os.path.join("csrc", "**", pattern), recursive=True)
        return sorted(path for path in found if "numpy_api" not in path)

    cpu = CppExtension("fasterrcnn_ops._cpu", sources("*.cpp"), extra_compile_args=cxx, **common)
    if release is None:
        return [cpu]
    flags = {"cxx": cxx, "nvcc": nvcc}
    return [cpu, CUDAExtension("fasterrcnn_ops._cuda", sources("*_cuda.cu"), extra_compile_args=flags, **common)]


torch = find_torch()
if torch is None:
    setup(setup_requires=["torch>=" + ".".join(map(str, OLDEST_TORCH))])
else:
    from torch.utils.cpp_extension import BuildExtension

    setup(
        ext_modules=extensions(torch) if not {"egg_info", "dist_info", "sdist"} & set(sys.argv) else [],
        cmdclass={"build_ext": BuildExtension.with_options(use_ninja=shutil.which("ninja") is not None)},
        options={"bdist_wheel": {"py_limited_api": "cp310"}},
    )
