"""The stages of the acceptance: each does one thing, within a limit of time, and returns what it found."""

from __future__ import annotations

import contextlib
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from . import report

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OK, FAILED, NO_CARD, UNAVAILABLE, NOTHING_OF_THAT_NAME = 0, 1, 2, 3, 4
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
TAIL = 4000  # characters of a program's output that a result keeps
CHECKS = 25.0  # seconds of the build stage that are kept for asking the new build what it has
PATIENCE = 5.0  # seconds that a stage asked to end has for ending what it started

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
        limit: seconds a stage may take, counted from ``began``.
        only: part of the names of the rows to run; all if empty.
        seconds: sampling time of a row.
        again: measure rows, too, that an earlier run of the same code on this machine has.
        seed: of the first row's inputs.
        commit: to record, where git cannot tell.
        began: ``time.monotonic()`` when the process did: importing torch and waking up the card count, too.
    """

    out: Path
    card: str
    limit: float = 470.0
    only: str = ""
    seconds: float = 5.0
    seed: int = 0
    commit: str | None = None
    again: bool = False
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds until the limit; negative beyond it."""
        return self.began + self.limit - time.monotonic()


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
    """Runs a program, output and errors together; it ends, with all it started, when time is up or this stage ends."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as log:  # a pipe would stay open as long as any descendant
        process = subprocess.Popen(
            command, cwd=cwd, env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        stopped = ""
        try:
            code = process.wait(timeout=max(limit, 1))
        except subprocess.TimeoutExpired:
            end(process)
            code, stopped = None, f"\nstopped after {limit:.0f} s"
        except BaseException:  # this stage is to end, see end_when_asked
            end(process)
            raise
        log.seek(0)
        output = log.read().decode(errors="replace") + stopped
    return Run(code, output, time.monotonic() - started)


def end(process: subprocess.Popen, patience: float = 0.0) -> None:
    """Ends a program that leads a session, and all in it.

    Args:
        process: Started with ``start_new_session``.
        patience: Seconds it has, asked by SIGTERM, to end on its own, and with it what it started in further sessions.
    """
    if patience > 0:
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(patience)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end_when_asked() -> None:
    """From now on SIGTERM ends this process the way an exception does, so that :func:`run` ends what it started."""

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(FAILED)

    signal.signal(signal.SIGTERM, stop)


def build(settings: Settings) -> Result:
    """Installs the working tree beside the torch that is there; every operator must then have a CUDA kernel."""
    pip = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--force-reinstall", "."]
    installed = run(pip, ROOT, settings.left - CHECKS, FASTERRCNN_OPS_CUDA="1")
    result: dict[str, Any] = {"install": installed.facts()}
    if installed.code != 0:
        return FAILED, result
    with tempfile.TemporaryDirectory() as elsewhere:  # where the source folder is not importable
        about = run([sys.executable, "-m", "fasterrcnn_ops"], Path(elsewhere), settings.left / 2)
        listed = run([sys.executable, "-c", LIST_MISSING], Path(elsewhere), settings.left)
    result |= {"about": about.facts(), "registered": listed.facts()}
    if about.code != 0 or listed.code != 0:
        return FAILED, result
    result["without_cuda_kernel"] = json.loads(listed.output.splitlines()[-1])
    return FAILED if result["without_cuda_kernel"] else OK, result


# The machine of a card may have no pytest-xdist, which the project's own options ask for.
WITHOUT_XDIST = "--import-mode=importlib -q -m 'not slow and not recipes'"


def tests(settings: Settings) -> Result:
    """The operator tests on the CUDA device, and those that only a card can answer."""
    result: dict[str, Any] = {}
    for name, arguments in {"ops": ["tests/ops", "-k", "cuda"], "cuda": ["tests/cuda"]}.items():
        with tempfile.TemporaryDirectory() as elsewhere:
            junit = Path(elsewhere, "junit.xml")
            command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
            command += [str(ROOT / arguments[0]), *arguments[1:], "--junitxml", str(junit)]
            command += ["-p", "no:cacheprovider", "-rs", "--durations=5", "-o", f"addopts={WITHOUT_XDIST}"]
            if importlib.util.find_spec("xdist"):
                command += ["-n", "4", "--dist", "loadgroup"]  # tests that need much memory, one after another
            done = run(command, Path(elsewhere), settings.left)
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
    # Each tensor in an allocation of its own, so that its end is watched.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    calls = str(HERE / "sanitizer_calls.py")

    def under(name: str, *arguments: str) -> Run:
        command = [tool, "--tool", name, "--error-exitcode", "86", sys.executable, calls, *arguments]
        return run(command, ROOT / "benchmarks", min(settings.left, settings.limit / 3), **environment)

    canary = under("memcheck", "--canary")
    result: dict[str, Any] = {"canary": canary.facts()}
    if canary.code != 0:
        plain = run([sys.executable, calls, "--canary"], ROOT / "benchmarks", settings.left)
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
        command = [nvcc, "-O3", "-std=c++17", "-arch=native", source, "-o", program]
        built = run(command, Path(folder), settings.left / 2)
        if built.code != 0:
            return FAILED, {"build": built.facts()}
        done = run([program], Path(folder), settings.left)
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


def models(settings: Settings, kinds: tuple[str, ...] = ("detect", "train")) -> Result:
    """Times whole detectors and training steps; see ``models.py``, which needs torchvision."""
    if importlib.util.find_spec("torchvision") is None:
        return UNAVAILABLE, {"unavailable": "torchvision, which the rows are measured against, is not installed"}
    from . import models as detectors

    return detectors.run_rows(settings, kinds)


def compiled(settings: Settings) -> Result:
    """Times whole detectors under torch.compile, which takes minutes a row; see ``models.py``."""
    return models(settings, ("compiled",))


def graphs(settings: Settings) -> Result:
    """Times detectors with and without CUDA graphs; see ``graphs.py``."""
    from . import graphs as detectors

    return detectors.run_rows(settings)


def goals(settings: Settings) -> Result:
    """Says which goals the rows measured on a card reach; see ``goals.py``. Needs no card."""
    from . import goals as table

    results = table.results_of(settings.out, settings.card)
    judged = table.judge(table.GOALS, results)
    print(table.table(judged))
    verdicts = table.verdicts(judged)
    # Of the machine and the code that were measured, not of those that judge.
    facts = {stage: result["facts"] for stage, result in results.items() if result}
    content = {"facts": facts, "verdicts": verdicts, "goals": judged}
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
    "compiled": compiled,
    "graphs": graphs,
    "goals": goals,
}
