"""Finds and loads the compiled operator libraries; the one place that explains a failed load.

There are two shared libraries without any Python in them. ``_cpu`` holds every schema and the CPU kernels, ``_cuda``
the CUDA kernels. Both are built on libtorch's stable ABI, so one binary serves every torch from 2.11 on; ``_cuda`` is
loaded only where torch itself has CUDA.
"""

from __future__ import annotations

import ctypes
import warnings
from pathlib import Path

import torch

OLDEST_TORCH = (2, 11)

_folder = Path(__file__).parent
_loaded: dict[str, Path] = {}
_cuda_problem: str | None = None


def load() -> None:
    """Loads the libraries and with them registers every operator; does nothing the second time.

    Raises:
        ImportError: the CPU library is missing or torch cannot load it; the message says what to do.
    """
    global _cuda_problem
    if "cpu" in _loaded:
        return
    _check_torch()
    cpu = _find("_cpu")
    if cpu is None:
        raise ImportError(_explain_missing())
    try:
        torch.ops.load_library(str(cpu))
    except OSError as error:
        raise ImportError(
            f"fasterrcnn_ops: torch {torch.__version__} could not load {cpu.name}: {error}. "
            "Reinstall it for this machine: pip install --force-reinstall --no-deps ."
        ) from error
    _loaded["cpu"] = cpu

    cuda = _find("_cuda")
    if cuda is None:
        _cuda_problem = "this installation was built without CUDA"
    elif torch.version.cuda is None:
        _cuda_problem = f"torch {torch.__version__} is a CPU-only build"
    else:
        try:
            torch.ops.load_library(str(cuda))
            _loaded["cuda"] = cuda
        except OSError as error:
            _cuda_problem = str(error)
            warnings.warn(
                f"fasterrcnn_ops: the CUDA kernels could not be loaded beside torch {torch.__version__} "
                f"(CUDA {torch.version.cuda}), the CPU operators work: {error}. "
                "Rebuild beside this torch: pip install --force-reinstall --no-deps .",
                RuntimeWarning,
                stacklevel=2,
            )


def describe() -> dict[str, str]:
    """What was built and what is in use, for ``python -m fasterrcnn_ops``."""
    load()
    facts = {"torch": torch.__version__, "torch CUDA": torch.version.cuda or "none (CPU-only build)"}
    facts["CPU library"] = f"{_loaded['cpu'].name}, {_text('build_info')}"
    facts["CPU kernels"] = f"{_text('cpu_level')} (this machine: {_text('cpu_levels')})"
    module = _find("_numpy")
    facts["NumPy module"] = module.name if module else "missing: reinstall, it is built for one Python version"
    facts["CUDA library"] = _loaded["cuda"].name if "cuda" in _loaded else f"not in use: {_cuda_problem}"
    if "cuda" in _loaded and not torch.cuda.is_available():
        facts["CUDA library"] += ", loaded; torch sees no GPU"
    elif "cuda" in _loaded:
        facts["GPU"] = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return facts


def _find(stem: str) -> Path | None:
    found = [path for suffix in (".so", ".dylib", ".pyd") for path in sorted(_folder.glob(f"{stem}*{suffix}"))]
    return found[0] if found else None


def cpu_levels() -> list[str]:
    """The CPU levels whose kernels this machine can run, lowest first; FASTERRCNN_OPS_CPU_LEVEL forces one of them."""
    load()
    return _text("cpu_levels").split(", ")


def _text(name: str) -> str:
    function = getattr(ctypes.CDLL(str(_loaded["cpu"])), f"fasterrcnn_ops_{name}")
    function.restype = ctypes.c_char_p
    return function().decode()


def _check_torch() -> None:
    found = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in torch.__version__.split(".")[:2])
    if found < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise ImportError(
            f"fasterrcnn_ops needs torch {oldest} or newer, not {torch.__version__}: pip install -U torch"
        )


def _explain_missing() -> str:
    if (_folder.parent / "csrc").is_dir():
        return (
            f"fasterrcnn_ops was imported from its source folder {_folder.parent}, where nothing has been compiled. "
            "After `pip install .`, run from another folder (or run `pytest` instead of `python -m pytest`); "
            "to work in place, run `pip install -e . --no-build-isolation`."
        )
    return (
        f"fasterrcnn_ops: no compiled library in {_folder}. The installation is incomplete: "
        "pip install --force-reinstall --no-deps fasterrcnn-ops"
    )
