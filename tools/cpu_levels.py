"""CPU levels: what there is, with which flags, and how setup.py compiles the kernels once for each.

A kernel in ``csrc/<room>/<op>_cpu_levels.cpp`` is compiled once per level, and ``csrc/cpu_level.h`` chooses between the
copies at run time. Only GCC and Clang on x86-64 have more than the baseline.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

CXX_FLAGS = ["-O3", "-g0", "-std=c++20", "-fvisibility=hidden", "-Wall"]
# A section for each function and table, so that the linker can drop what an extension does not use: the NumPy module
# has no business with the kernels of RoI operators.
CXX_FLAGS += ["-ffunction-sections", "-fdata-sections"]
DROP_UNUSED = {"extra_link_args": ["-Wl,-dead_strip" if sys.platform == "darwin" else "-Wl,--gc-sections"]}
# No contraction to FMA: the CPU levels, CUDA and the references must round alike.
CXX_FLAGS += ["-ffp-contract=off"]

# GCC 12's own AVX-512 header sets off maybe-uninitialized.
_AVX512 = [f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "cd")]
LEVELS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": [*_AVX512, "-mfma", "-mf16c", "-mprefer-vector-width=512", "-Wno-maybe-uninitialized"],
}


def levels_here() -> dict[str, list[str]]:
    """The levels that are compiled on this machine's architecture, lowest first: name -> compiler flags."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return LEVELS
    return {"baseline": LEVELS["baseline"]}


def level_sources(csrc: Path) -> list[str]:
    return sorted(map(str, csrc.rglob("*_cpu_levels.cpp")))


def level_flags(level: str) -> list[str]:
    """All flags of a level but the include path."""
    return [*CXX_FLAGS, f"-DFRCNN_CPU_LEVEL={level}", *LEVELS[level]]


def with_cpu_levels(build_ext: type, csrc: Path) -> type:
    """A ``build_ext`` that links the kernels of every level, and the choice between them, into each CPU extension.

    Ninja knows which headers an object came from; without it, an object older than anything in ``csrc`` is compiled
    again.
    """

    class BuildWithCpuLevels(build_ext):
        _level_objects: list[str] | None = None

        def build_extension(self, extension):
            if not any(source.endswith(".cu") for source in extension.sources):
                if self._level_objects is None:
                    jobs = [("cpu_level", [str(csrc / "cpu_level.cpp")], CXX_FLAGS)]
                    jobs += [(f"cpu_{level}", level_sources(csrc), level_flags(level)) for level in levels_here()]
                    self._level_objects = [o for job in jobs for o in self._compile(*job)]
                extension.extra_objects = [*extension.extra_objects, *self._level_objects]
            super().build_extension(extension)

        def _compile(self, name: str, sources: list[str], flags: list[str]) -> list[str]:
            folder = os.path.join(self.build_temp, name)
            objects = self.compiler.object_filenames(sources, output_dir=folder)
            newest = max((file.stat().st_mtime for file in csrc.rglob("*") if file.is_file()), default=0.0)
            if not self.force and all(os.path.exists(o) and os.path.getmtime(o) > newest for o in objects):
                return objects
            os.makedirs(folder, exist_ok=True)
            include = [str(csrc.resolve())]
            return self.compiler.compile(sources, output_dir=folder, include_dirs=include, extra_postargs=flags)

    return BuildWithCpuLevels
