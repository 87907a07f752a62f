"""What the machine code (SASS) of our kernels says of memory: no local memory, wide accesses where they are designed.

``ptxas -v`` counts spills and stack frames; what an access became, only the code itself shows. For tools/
check_cuda_kernels.py, which compiles. The disassembler nvdisasm comes with most toolkits, and alone as the package
``nvidia-cuda-nvdisasm``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Opcodes = Counter[str]  # "LDG.E.128.CONSTANT" -> number of instructions


@dataclass(frozen=True)
class Wide:
    """Accesses of global memory that a kernel is designed to make, in bits.

    Attributes:
        loads: each of these widths must occur.
        stores: each of these widths must occur.
        every_store: no store may be narrower than the narrowest of ``stores``. What is loaded besides (RoIs) is narrow
            by nature, so there is no such rule for loads.
    """

    loads: tuple[int, ...] = ()
    stores: tuple[int, ...] = ()
    every_store: bool = False


_WHOLE = Wide((128,), (128,), every_store=True)
# Gradients of half types go by packs of four, for the sake of registers.
_HALF_GATHER = Wide((64,), (64,), every_store=True)
_ROI_ALIGN_FORWARD = {
    f"roi_align_forward_kernel<{lanes}": _WHOLE for lanes in ("float, 4", "double, 2", "__half, 8", "__nv_bfloat16, 8")
}


def _gather(kernel: str, half: Wide) -> dict[str, Wide]:
    """Doubles go singly."""
    return {f"{kernel}<float, 4": _WHOLE, f"{kernel}<__half, 4": half, f"{kernel}<__nv_bfloat16, 4": half}


# Boxes of NMS: four floats at once, four doubles in two accesses.
_SORTED_BOXES = {
    f"{kernel}<{scalar}": wide
    for kernel, wide in {
        "mask_kernel": Wide(loads=(128,)),
        "kept_kernel": Wide(loads=(128,)),
        "scan_kernel": Wide(loads=(128,), stores=(128,)),
    }.items()
    for scalar in ("float", "double")
}

# File -> kernel, up to the template arguments that count -> what every instance of it must do.
WIDE_ACCESSES: dict[str, dict[str, Wide]] = {
    "roi_align_cuda": {**_ROI_ALIGN_FORWARD, **_gather("roi_align_backward_kernel", _HALF_GATHER)},
    "multi_scale_roi_align_cuda": {
        **_ROI_ALIGN_FORWARD,
        **_gather("multi_scale_roi_align_backward_kernel", _HALF_GATHER),
    },
    "roi_pool_cuda": {
        **{name.replace("align", "pool"): wide for name, wide in _ROI_ALIGN_FORWARD.items()},
        # 128: two of argmax.
        **_gather("roi_pool_backward_kernel", Wide((64, 128), (64,), every_store=True)),
    },
    # Sixteen bytes of a mask.
    "sampling_cuda": {"sample_candidates_kernel": Wide((128,), (128,))},
    "nms_cuda": {
        **_SORTED_BOXES,
        **{f"arrange_kernel<{scalar}": Wide(stores=(128,)) for scalar in ("float", "double")},
    },
    "proposals_cuda": {
        **_SORTED_BOXES,
        # The logits, in the copy that has a loop for packs.
        **{
            f"select_kernel<{types}, false": Wide(loads=(128,))
            for types in ("float, float", "double, double", "float, __half", "float, __nv_bfloat16")
        },
    },
}


def find_nvdisasm(cuda_home: Path) -> Path:
    """On PATH, in the toolkit, or of the Python package beside this interpreter."""
    on_path = shutil.which("nvdisasm")
    in_packages = (found for folder in sys.path for found in sorted(Path(folder).glob("nvidia/*/bin/nvdisasm")))
    for candidate in (*([Path(on_path)] if on_path else []), cuda_home / "bin" / "nvdisasm", *in_packages):
        if candidate.exists():
            return candidate
    raise SystemExit("no nvdisasm was found: pip install nvidia-cuda-nvdisasm")


def disassemble(cubin: Path, nvdisasm: Path) -> dict[str, Opcodes]:
    """Mangled name of each function in ``cubin`` -> its instructions."""
    return opcodes_in(subprocess.run([nvdisasm, "-c", cubin], capture_output=True, text=True, check=True).stdout)


def opcodes_in(listing: str) -> dict[str, Opcodes]:
    """Parses the output of ``nvdisasm -c``."""
    functions: dict[str, Opcodes] = {}
    here: Opcodes | None = None
    for line in listing.splitlines():
        if section := re.match(r"\s*\.section\s+([\w.$]+)", line):
            name = section[1].removeprefix(".text.")
            here = functions.setdefault(name, Counter()) if name != section[1] else None
        elif here is not None and (found := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+\{?\s*(?:@\S+\s+)?([A-Z][\w.]*)", line)):
            here[found[1]] += 1
    return functions


def failures(file: str, arch: str, functions: Mapping[str, Opcodes]) -> list[str]:
    """What is wrong with the kernels of ``file`` (its stem), by readable name without parameters."""
    ours = {name: opcodes for name, opcodes in functions.items() if name.startswith("frcnn::")}
    if not any(ours.values()):
        return [f"{file} for sm_{arch}: no instruction of ours; has the output of nvdisasm changed?"]
    said = []
    for name, opcodes in ours.items():
        if local := sum(count for opcode, count in opcodes.items() if opcode.split(".")[0] in ("LDL", "STL")):
            said.append(f"{name} on sm_{arch} accesses local memory, {local} instructions")
    for kernel, wide in WIDE_ACCESSES.get(file, {}).items():
        instances = [name for name in ours if re.match(re.escape(f"frcnn::{kernel}") + r"\s*(?:[,>]|$)", name)]
        if not instances:
            said.append(f"{file} for sm_{arch} has no {kernel}…, which WIDE_ACCESSES names")
        said += [f"{name} on sm_{arch} {what}" for name in instances for what in _narrow(ours[name], wide)]
    return said


def _narrow(opcodes: Opcodes, wide: Wide) -> list[str]:
    loads, stores = _widths(opcodes, "LDG"), _widths(opcodes, "STG")
    said = [f"has no load of {bits} bits, only {sorted(loads)}" for bits in wide.loads if bits not in loads]
    said += [f"has no store of {bits} bits, only {sorted(stores)}" for bits in wide.stores if bits not in stores]
    if wide.every_store and min(stores, default=0) < min(wide.stores):
        said.append(f"has stores of {min(stores, default=0)} bits, designed are {min(wide.stores)}")
    return said


def _widths(opcodes: Opcodes, access: str) -> set[int]:
    """Widths in bits: LDG.E.128 -> 128, LDG.E.U16 -> 16, LDG.E -> 32."""
    widths = set()
    for opcode in opcodes:
        kind, *modifiers = opcode.split(".")
        if kind == access:
            bits = [int(m[1]) for modifier in modifiers if (m := re.fullmatch(r"[US]?(8|16|64|128|256)", modifier))]
            widths.add(bits[0] if bits else 32)
    return widths
