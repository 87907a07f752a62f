"""How every benchmark times: one thread, results compared with the reference's first, rivals side by side.

    pytest benchmarks -k nms            a pytest-benchmark table per group; rivals one after another
    python benchmarks/report.py         rivals interleaved, medians and ratios: the numbers to quote

Timed numbers never decide a test; only an unequal result fails one.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

RIVALS = ("ours", "reference", "torchvision")  # a module with others says so by a RIVALS of its own
INTERLEAVED = "interleaved"
ROUNDS = (5, 2000)  # least and most rounds of one group


def pytest_xdist_auto_num_workers() -> int:
    """None: whatever else runs falsifies what is timed."""
    return 0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--threads", type=int, default=1, help="torch threads while timing (default 1)")
    parser.addoption("--seconds", type=float, default=3.0, help="how long the rivals of a case take turns (default 3)")
    parser.addoption(
        "--interleaved", metavar="FILE", help="time the rivals in turns and save medians to this JSON file"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "race" in metafunc.fixturenames:
        alone = metafunc.config.getoption("--interleaved") is None
        rivals = getattr(metafunc.module, "RIVALS", RIVALS)
        metafunc.parametrize("rival", rivals if alone else (INTERLEAVED,))


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.config.getoption("--threads"))
    yield
    torch.set_num_threads(before)


def has_torchvision() -> bool:
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.fixture
def race(request: pytest.FixtureRequest, benchmark: Any, rival: str) -> Callable[..., None]:
    """``race(group, implementations, same)`` times rivals after comparing their results with the reference's.

    Args (of the function returned):
        group: operator and case, as ``nms/rpn_2000``.
        implementations: rival -> call without arguments; a rival that has no such operator is left out.
        same: ``same(found, expected)`` raises unless the results agree; ``expected`` is the reference's.

    A reference that takes longer than a second is timed once: it defines what is right, not what is fast.
    """

    def run(group: str, implementations: dict[str, Callable[[], Any]], same: Callable[[Any, Any], None]) -> None:
        if not has_torchvision():
            implementations = {name: call for name, call in implementations.items() if name != "torchvision"}
        started = time.perf_counter()
        expected = implementations["reference"]()
        reference_seconds = time.perf_counter() - started
        if rival == INTERLEAVED:
            for name, call in implementations.items():
                if name != "reference":
                    same(call(), expected)
            found = request.config.stash.setdefault(_RESULTS, {})
            slow = {"reference": reference_seconds} if reference_seconds > 1 else {}
            found[group] = slow | time_in_turns(
                {k: v for k, v in implementations.items() if k not in slow}, request.config.getoption("--seconds")
            )
            save(request.config)
            benchmark.pedantic(lambda: None, rounds=1)  # pytest-benchmark warns about a fixture that is never called
            return
        if rival not in implementations:
            pytest.skip(f"{rival} is not installed here or has no such operator")
        call = implementations[rival]
        if rival != "reference":
            same(call(), expected)
        benchmark.group = group
        benchmark.extra_info.update(rival=rival, **machine())
        benchmark(call)

    return run


def time_in_turns(implementations: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Median seconds of each call, over rounds that last ``seconds`` together, or the least number of them.

    Taking turns, all of them see the same disturbances of a shared machine.
    """
    times: dict[str, list[float]] = {name: [] for name in implementations}
    deadline = time.perf_counter() + seconds
    for done in range(ROUNDS[1]):
        if done >= ROUNDS[0] and time.perf_counter() > deadline:
            break
        for name, call in implementations.items():
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken) for name, taken in times.items()}


def machine() -> dict[str, Any]:
    """What a number depends on: processor, threads, versions."""
    facts = {"cpu": cpu_name(), "cpu_count": os.cpu_count(), "threads": torch.get_num_threads()}
    facts |= {"capability": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__}
    if has_torchvision():
        facts["torchvision"] = importlib.metadata.version("torchvision")
    return facts


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


_RESULTS = pytest.StashKey[dict[str, dict[str, float]]]()


def save(config: pytest.Config) -> None:
    """Writes what was timed so far, after every case, so that an interruption loses nothing."""
    facts = {**machine(), "threads": config.getoption("--threads")}
    results = {"machine": facts, "median_seconds": config.stash[_RESULTS]}
    Path(config.getoption("--interleaved")).write_text(json.dumps(results, indent=2) + "\n")
