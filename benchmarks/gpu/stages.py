"""The stages of the acceptance: each does one thing, within a limit of time, and returns what it found."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from . import report

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OK, FAILED, NO_CARD, UNAVAILABLE = 0, 1, 2, 3
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
TAIL = 4000  # characters of a program's output that a result keeps

OPERATORS = (
    *("grid_anchors", "encode_boxes", "decode_boxes", "box_iou", "box_iou_backward"),
    *("nms", "batched_nms", "nms_padded"),
    *("roi_align_forward", "roi_align_backward", "roi_pool_forward", "roi_pool_backward"),
    *("match_boxes", "sample_candidates", "generate_proposals", "select_detections", "soft_nms"),
    *("multi_scale_roi_align_forward", "multi_scale_roi_align_backward"),
)
# Run in a process of its own: prints the operators without a CUDA kernel, as JSON.
LIST_MISSING = f"""
import json, torch, fasterrcnn_ops
from fasterrcnn_ops import _library
_library.load()
has = torch._C._dispatch_has_kernel_for_dispatch_key
print(json.dumps([name for name in {OPERATORS!r} if not has("fasterrcnn_ops::" + name, "CUDA")]))
"""


@dataclass(frozen=True)
class Settings:
    """What the command line asks for.

    Attributes:
        out: folder of results.
        card: name of the device.
        limit: seconds a stage may take.
        only: part of the names of the rows to run; all if empty.
        seconds: sampling time of a row.
        again: measure rows, too, that an earlier run of the same code on this machine has.
        seed: of the first row's inputs.
        commit: to record, where git cannot tell.
    """

    out: Path
    card: str
    limit: float = 470.0
    only: str = ""
    seconds: float = 5.0
    seed: int = 0
    commit: str | None = None
    again: bool = False


Result = tuple[int, dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """A finished program; ``code`` is None if it ran out of time."""

    code: int | None
    output: str
    seconds: float

    def facts(self) -> dict[str, Any]:
        """For a result file: the end of the output, without the folders of this machine."""
        return {"exit": self.code, "seconds": round(self.seconds, 1), "output": without_folders(self.output)[-TAIL:]}


def without_folders(output: str) -> str:
    """The checkout becomes ``.`` (also where given relative to another folder), the interpreter's ``<python>``."""
    output = re.sub(r"(?:(?:\.\./)*\.\.)?" + re.escape(str(ROOT)) + r"(?=[/\s:'\"]|$)", ".", output)
    return output.replace(sys.prefix + "/", "<python>/")


def run(command: list[str], cwd: Path, limit: float, **environment: str) -> Run:
    """Runs a program, output and errors together; when time is up, it and all that it started end."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as log:  # a pipe would stay open as long as any descendant
        process = subprocess.Popen(
            command, cwd=cwd, env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        stopped = ""
        try:
            code = process.wait(timeout=max(limit, 1))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code, stopped = None, f"\nstopped after {limit:.0f} s"
        log.seek(0)
        output = log.read().decode(errors="replace") + stopped
    return Run(code, output, time.monotonic() - started)


def build(settings: Settings) -> Result:
    """Installs the working tree beside the torch that is there; every operator must then have a CUDA kernel."""
    pip = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--force-reinstall", "."]
    installed = run(pip, ROOT, settings.limit, FASTERRCNN_OPS_CUDA="1")
    result: dict[str, Any] = {"install": installed.facts()}
    if installed.code != 0:
        return FAILED, result
    with tempfile.TemporaryDirectory() as elsewhere:  # where the source folder is not importable
        about = run([sys.executable, "-m", "fasterrcnn_ops"], Path(elsewhere), 60)
        listed = run([sys.executable, "-c", LIST_MISSING], Path(elsewhere), 60)
    result |= {"about": about.facts(), "registered": listed.facts()}
    if about.code != 0 or listed.code != 0:
        return FAILED, result
    result["without_cuda_kernel"] = json.loads(listed.output.splitlines()[-1])
    return FAILED if result["without_cuda_kernel"] else OK, result


# The machine of a card may have no pytest-xdist, which the project's own options ask for.
WITHOUT_XDIST = "--import-mode=importlib -q -m 'not slow and not recipes'"


def tests(settings: Settings) -> Result:
    """The operator tests on the CUDA device, and those that only a card can answer."""
    deadline = time.monotonic() + settings.limit
    result: dict[str, Any] = {}
    for name, arguments in {"ops": ["tests/ops", "-k", "cuda"], "cuda": ["tests/cuda"]}.items():
        with tempfile.TemporaryDirectory() as elsewhere:
            junit = Path(elsewhere, "junit.xml")
            command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
            command += [str(ROOT / arguments[0]), *arguments[1:], "--junitxml", str(junit)]
            command += ["-p", "no:cacheprovider", "-rs", "--durations=5", "-o", f"addopts={WITHOUT_XDIST}"]
            if importlib.util.find_spec("xdist"):
                command += ["-n", "4"]
            done = run(command, Path(elsewhere), deadline - time.monotonic())
            counts = test_counts(junit.read_text()) if junit.exists() else {}
        result[name] = done.facts() | {"counts": counts}
    passed = all(part["exit"] == 0 and part["counts"].get("passed", 0) > 0 for part in result.values())
    return OK if passed else FAILED, result


def test_counts(junit: str) -> dict[str, int]:
    """passed, failed and skipped tests in a JUnit report."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for suite in ElementTree.fromstring(junit).iter("testsuite"):
        total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
        failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        counts["failed"] += failed
        counts["skipped"] += skipped
        counts["passed"] += total - failed - skipped
    return counts


def find_sanitizer() -> str | None:
    """compute-sanitizer, on PATH or in the toolkit."""
    folders = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")] + ["/usr/local/cuda"]
    beside = [str(Path(folder, "bin", "compute-sanitizer")) for folder in folders if folder]
    return next((found for name in ("compute-sanitizer", *beside) if (found := shutil.which(name))), None)


def sanitizer(settings: Settings) -> Result:
    """Every operator, small, under each tool of compute-sanitizer."""
    tool = find_sanitizer()
    if tool is None:
        return UNAVAILABLE, {"unavailable": "compute-sanitizer is not installed"}
    deadline = time.monotonic() + settings.limit
    # Each tensor in an allocation of its own, so that its end is watched.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    calls = str(HERE / "sanitizer_calls.py")

    def under(name: str, *arguments: str) -> Run:
        command = [tool, "--tool", name, "--error-exitcode", "86", sys.executable, calls, *arguments]
        return run(command, ROOT / "benchmarks", min(deadline - time.monotonic(), settings.limit / 3), **environment)

    canary = under("memcheck", "--canary")
    result: dict[str, Any] = {"canary": canary.facts()}
    if canary.code != 0:
        plain = run([sys.executable, calls, "--canary"], ROOT / "benchmarks", 120)
        result["canary_without_tool"] = plain.facts()
        if plain.code != 0:
            return FAILED, result
        result["unavailable"] = "compute-sanitizer refuses this machine: " + last_line(canary.output)
        return UNAVAILABLE, result
    for name in SANITIZERS:
        done = under(name)
        result[name] = done.facts() | {"summary": error_summary(done.output)}
    return OK if all(result[name]["exit"] == 0 for name in SANITIZERS) else FAILED, result


def last_line(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"


def error_summary(output: str) -> str | None:
    """compute-sanitizer's last word, such as ``ERROR SUMMARY: 0 errors``."""
    found = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", output)
    return found[-1] if found else None


def ceilings(settings: Settings) -> Result:
    """Builds and runs ceilings.cu."""
    nvcc = next((path for name in ("nvcc", "/usr/local/cuda/bin/nvcc") if (path := shutil.which(name))), None)
    if nvcc is None:
        return UNAVAILABLE, {"unavailable": "nvcc is not installed"}
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder, "ceilings"))
        source = str(HERE / "ceilings.cu")
        built = run(
            [nvcc, "-O3", "-std=c++17", "-arch=native", source, "-o", program], Path(folder), settings.limit / 2
        )
        if built.code != 0:
            return FAILED, {"build": built.facts()}
        done = run([program], Path(folder), settings.limit / 2)
    if done.code != 0:
        return FAILED, {"run": done.facts()}
    return OK, {"ceilings": json.loads(done.output)}


def operators(settings: Settings) -> Result:
    """Times the operator rows; see ``race.py``, which needs torchvision."""
    if importlib.util.find_spec("torchvision") is None:
        return UNAVAILABLE, {"unavailable": "torchvision, which the rows are measured against, is not installed"}
    from . import race

    known = report.load(report.result_file(settings.out, "ceilings", settings.card))
    return race.run_rows(settings, known.get("ceilings") if known else None)


def models(settings: Settings) -> Result:
    """Times whole detectors and training steps; see ``models.py``, which needs torchvision."""
    if importlib.util.find_spec("torchvision") is None:
        return UNAVAILABLE, {"unavailable": "torchvision, which the rows are measured against, is not installed"}
    from . import models as detectors

    return detectors.run_rows(settings)


def graphs(settings: Settings) -> Result:
    """Times detectors with and without CUDA graphs; see ``graphs.py``."""
    from . import graphs as detectors

    return OK, {"rows": detectors.run(settings.only)}


def goals(settings: Settings) -> Result:
    """Says which goals the rows measured on a card reach; see ``goals.py``. Needs no card."""
    from . import goals as table

    results = table.results_of(settings.out, settings.card)
    judged = table.judge(table.GOALS, results)
    print(table.table(judged))
    verdicts = table.verdicts(judged)
    measured_at = {stage: result["facts"]["commit"] for stage, result in results.items() if result}
    content = {"verdicts": verdicts, "measured_at": measured_at, "goals": judged}
    if verdicts[table.MISSED]:
        return FAILED, content
    if verdicts[table.NOT_MEASURED]:
        return UNAVAILABLE, content | {"unavailable": f"{verdicts[table.NOT_MEASURED]} goals are not measured"}
    return OK, content


STAGES: dict[str, Callable[[Settings], Result]] = {
    "build": build,
    "tests": tests,
    "sanitizer": sanitizer,
    "ceilings": ceilings,
    "operators": operators,
    "models": models,
    "graphs": graphs,
    "goals": goals,
}
