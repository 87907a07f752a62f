"""Shows that the compiled libraries need nothing of libtorch that the oldest supported torch lacks.

    python tools/check_stable_abi.py TORCH_INCLUDE LIBRARY...

TORCH_INCLUDE is the ``torch/include`` folder of that oldest torch. Every undefined symbol of a library that belongs to
torch must be a C function its headers declare, and none may be a C++ symbol of ATen or c10, which change with every
release. The NumPy module must need nothing of torch at all. Exit code 1 and the list of offenders otherwise.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def undefined_symbols(library: Path) -> list[str]:
    out = subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True).stdout
    return [line.split()[-1].split("@")[0] for line in out.splitlines() if line.strip()]


def needed_libraries(library: Path) -> list[str]:
    out = subprocess.run(["objdump", "-p", library], capture_output=True, text=True, check=True).stdout
    return re.findall(r"NEEDED\s+(\S+)", out)


def declared_functions(include: Path) -> set[str]:
    headers = [
        *include.glob("torch/csrc/inductor/aoti_torch/c/*.h"),
        *include.glob("torch/csrc/stable/c/*.h"),
        *include.glob("torch/csrc/stable/ops.h"),  # what the stable C++ functions call, some of it declared elsewhere
    ]
    if not headers:
        raise SystemExit(f"no stable ABI headers below {include}")
    text = "\n".join(header.read_text() for header in headers)
    return set(re.findall(r"\b(?:aoti_torch|torch)_\w+(?=\s*\()", text)) | dtype_functions(text)


def dtype_functions(text: str) -> set[str]:
    """aoti_torch_dtype_* and aoti_torch_layout_* come from macros in some releases; names are enough here."""
    return set(re.findall(r"\baoti_torch_(?:dtype|layout|device_type|memory_format)_\w+", text))


def main() -> int:
    include, *libraries = map(Path, sys.argv[1:])
    known = declared_functions(include)
    bad = []
    for library in libraries:
        symbols = undefined_symbols(library)
        torch_c = [s for s in symbols if s.startswith(("aoti_torch", "torch_"))]
        torch_cpp = [s for s in symbols if re.match(r"_ZN?K?\d*(2at|3c10|5torch)", s)]
        bad += [f"{library.name}: {s} is not in the oldest torch's headers" for s in torch_c if s not in known]
        bad += [f"{library.name}: {s} is a C++ symbol of torch" for s in torch_cpp]
        if library.name.startswith("_numpy."):
            bad += [f"{library.name}: needs {s} of torch" for s in torch_c]
            linked = [name for name in needed_libraries(library) if name.startswith(("libtorch", "libc10"))]
            bad += [f"{library.name}: is linked with {name}" for name in linked]
        print(f"{library.name}: {len(torch_c)} symbols of libtorch's stable C interface, {len(torch_cpp)} C++ symbols")
    print("\n".join(bad), file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
