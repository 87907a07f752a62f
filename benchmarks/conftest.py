"""How every benchmark times: one thread, the rivals' results compared first, ours and theirs in one group.

    pytest benchmarks -k nms                     a table per group on the terminal
    pytest benchmarks --benchmark-json=out.json  the same, saved

Timed numbers never decide a test; only an unequal result fails one.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

RIVALS = ("ours", "reference", "torchvision")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--threads", type=int, default=1, help="torch threads while timing (default 1)")


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.config.getoption("--threads"))
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=RIVALS)
def rival(request: pytest.FixtureRequest) -> str:
    """Whose implementation this run times; torchvision's shows as skipped where it is not installed."""
    if request.param == "torchvision":
        pytest.importorskip(
            "torchvision", reason="torchvision is not installed beside this torch", exc_type=ImportError
        )
    return request.param


@pytest.fixture
def race(benchmark: Any, rival: str) -> Callable[..., None]:
    """``race(group, implementations, same)`` times the rival's call after comparing its result with the reference's.

    Args (of the function returned):
        group: operator and case, as ``nms/rpn_2000``.
        implementations: rival -> call without arguments; a rival that has no such operator is left out.
        same: ``same(found, expected)`` raises unless the results agree; ``expected`` is the reference's.
    """

    def run(group: str, implementations: dict[str, Callable[[], Any]], same: Callable[[Any, Any], None]) -> None:
        if rival not in implementations:
            pytest.skip(f"{rival} has no such operator")
        call = implementations[rival]
        if rival != "reference":
            same(call(), implementations["reference"]())
        benchmark.group = group
        benchmark.extra_info.update(rival=rival, torch=torch.__version__, threads=torch.get_num_threads())
        if rival == "torchvision":
            benchmark.extra_info["torchvision"] = importlib.metadata.version("torchvision")
        benchmark.extra_info["cpu_count"] = os.cpu_count()
        benchmark(call)

    return run
