"""Fixtures of all tests: the device to run on, and a fixed seed."""

from __future__ import annotations

import os

import pytest
import torch

# Two OpenMP threads on cores that others use as well wait for each other far longer than one thread computes. Tests of
# what threads must not change set their numbers themselves.
torch.set_num_threads(1)


def pytest_xdist_auto_num_workers() -> int:
    """Test processes: one per core, but no more than share memory and a card well."""
    return 1 if torch.cuda.is_available() else min(4, os.cpu_count() or 1)


def _devices() -> list:
    no_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    return [pytest.param("cpu", id="cpu"), pytest.param("cuda", id="cuda", marks=no_card)]


@pytest.fixture(params=_devices(), scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every test that takes ``device`` runs on the CPU and on the card; without a card the latter shows as skipped."""
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Each test starts from the same random state, alone or in a full run."""
    torch.manual_seed(0)
