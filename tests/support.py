"""Helpers the tests share: dtype lists, tolerances, box makers, memory layouts, the oracle.

Import as ``import support`` (pytest puts ``tests/`` on the path).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

# For hypothesis, which wants no fixture; a test of its own shows that the card is missing.
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FULL_DTYPES = (torch.float32, torch.float64)
HALF_DTYPES = (torch.float16, torch.bfloat16)

# One rounding of a value of the dtype, with room for a handful of rounded intermediate steps.
_RTOL = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 1e-5, torch.float64: 1e-12}


def dtype_id(dtype: torch.dtype) -> str:
    """Short parameter id: ``float32`` instead of ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def assert_close(actual: Tensor, expected: Tensor, *, rtol: float | None = None, atol: float | None = None) -> None:
    """Values, shape, dtype and device agree; NaN equals NaN.

    The default tolerance is the one of ``actual.dtype``: relative, plus the same number as absolute slack for values
    that cancel to about zero (coordinates here are of the order of 1 to 1000).
    """
    slack = _RTOL.get(actual.dtype, 0.0)
    torch.testing.assert_close(
        actual,
        expected,
        rtol=slack if rtol is None else rtol,
        atol=slack if atol is None else atol,
        equal_nan=True,
    )


def assert_bitwise_equal(first: Tensor, second: Tensor) -> None:
    """Same shape and dtype and, NaN included, the same bits; signed zeros count as different."""
    assert first.shape == second.shape
    assert first.dtype == second.dtype
    raw = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[first.element_size()]
    assert torch.equal(first.contiguous().view(raw), second.contiguous().view(raw))


def random_boxes(
    count: int,
    *,
    image: float = 800.0,
    min_side: float = 1.0,
    max_side: float = 300.0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    generator: torch.Generator | None = None,
) -> Tensor:
    """``[count, 4]`` valid xyxy boxes in pixels: corner in ``[0, image)``, sides in ``[min_side, max_side)``.

    Drawn on the CPU in float64, so that every device and dtype sees the same boxes.
    """
    unit = torch.rand(count, 4, dtype=torch.float64, generator=generator)
    corner = unit[:, :2] * image
    side = min_side + unit[:, 2:] * (max_side - min_side)
    return torch.cat((corner, corner + side), dim=1).to(device=device, dtype=dtype)


def strided_copy(tensor: Tensor) -> Tensor:
    """Equal values in a tensor that is not contiguous in any dimension (every second element of a larger one)."""
    wide = tensor.new_zeros([2 * size for size in tensor.shape])
    view = wide[tuple(slice(None, None, 2) for _ in tensor.shape)]
    view.copy_(tensor)
    return view


def transposed_copy(tensor: Tensor) -> Tensor:
    """Equal values stored with the last two dimensions swapped in memory (column-major for a matrix)."""
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)


LAYOUTS = {"contiguous": Tensor.contiguous, "strided": strided_copy, "transposed": transposed_copy}


def at_thread_counts(run, counts: tuple[int, ...] = (1, 2)) -> list:
    """Results of ``run()`` under each intra-op thread count; the count is restored afterwards."""
    before = torch.get_num_threads()
    results = []
    try:
        for count in counts:
            torch.set_num_threads(count)
            results.append(run())
    finally:
        torch.set_num_threads(before)
    return results


def require_torchvision() -> ModuleType:
    """torchvision, the oracle of the parity tests; without it the calling test module is skipped and says so."""
    return pytest.importorskip(
        "torchvision",
        reason="torchvision, the oracle, is not installed beside this torch",
        exc_type=ImportError,
    )


def require_memory(gib: float) -> None:
    """Skips the calling test, visibly, unless the machine can give it ``gib`` GiB."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        pytest.skip("cannot tell how much memory is available")
    available = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable"))
    if int(available.split()[1]) < gib * 2**20:
        pytest.skip(f"needs {gib} GiB of memory")


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs this interpreter on the package under test, in an empty folder.

    In the source folder Python would find the sources, where an installed package has its compiled libraries elsewhere.
    """
    import fasterrcnn_ops

    package = str(Path(fasterrcnn_ops.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, **environment},
            capture_output=True,
            text=True,
        )


def needs_cuda_kernel(operator: str) -> list[pytest.MarkDecorator]:
    """Marks of a test module that needs a card and ``operator``'s kernel for it; skipped, visibly, without either."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key(f"fasterrcnn_ops::{operator}", "CUDA")
    return [
        pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        pytest.mark.skipif(not has_kernel, reason=f"{operator} has no CUDA kernel in this build"),
    ]


@contextlib.contextmanager
def no_synchronisation() -> Iterator[None]:
    """Operations that wait for the device raise inside."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
