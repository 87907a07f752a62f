"""Shows that no CPU level leaves code behind that another level, or an older machine, could end up calling.

    python tools/check_cpu_levels.py [SOURCE...]

Compiles every ``*_cpu_levels.cpp`` (or those named) for every level and reads the object's symbols. Where two objects
define an inline function of one name, the linker keeps either; so an object may define strong and weak symbols in
its own namespace ``frcnn::<level>`` only. It may need C functions (memcpy), but no C++ function from outside. Exit code
1 and the list of offenders otherwise.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from cpu_levels import level_flags, level_sources, levels_here

CSRC = Path(__file__).resolve().parents[1] / "csrc"


def offenders(source: Path, level: str, folder: Path) -> list[str]:
    """Symbols of ``source``, compiled for ``level``, that do not belong to the level."""
    compiler = os.environ.get("CXX", "c++").split()
    target = folder / f"{source.stem}_{level}.o"
    subprocess.run([*compiler, *level_flags(level), "-fPIC", f"-I{CSRC}", "-c", str(source), "-o", target], check=True)
    return [symbol for symbol in symbols(target) if is_foreign(symbol, level)]


def symbols(file: Path) -> list[tuple[str, str, str]]:
    """(type letter of nm, mangled name, readable name) of every symbol that other objects can see or must provide."""
    rows = []
    for options in (["-g"], ["-g", "-C"]):
        out = subprocess.run(["nm", *options, file], capture_output=True, text=True, check=True).stdout
        rows.append([line[17:] for line in out.splitlines()])
    return [(mangled[0], mangled[2:], readable[2:]) for mangled, readable in zip(*rows, strict=True)]


def is_foreign(symbol: tuple[str, str, str], level: str) -> bool:
    kind, mangled, readable = symbol
    if not mangled.startswith(("_Z", "__Z")):
        return kind not in "Uw"  # a C function: needed from outside, never defined here
    # "vtable for frcnn::avx2::X" and the like; a function's own name comes before its arguments.
    name = readable.split(" for ")[-1].split("(")[0]
    return f"frcnn::{level}::" not in name


def main() -> int:
    sources = [Path(name).resolve() for name in sys.argv[1:] or level_sources(CSRC)]
    bad = []
    with tempfile.TemporaryDirectory() as folder:
        for source in sources:
            for level in levels_here():
                found = offenders(source, level, Path(folder))
                bad += [f"{source.name} at {level}: {kind} {readable}" for kind, _, readable in found]
    print(f"{len(sources)} level sources, {len(levels_here())} levels, {len(bad)} foreign symbols")
    print("\n".join(bad), file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
