"""The examples in the docstrings of fasterrcnn_ops are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import torch

import fasterrcnn_ops

MODULES = [module.name for module in pkgutil.iter_modules(fasterrcnn_ops.__path__) if not module.name.startswith("_")]


@pytest.mark.parametrize("name", [name for name in MODULES if name not in ("torch_ops", "reference")])
def test_docstring_examples(name):
    module = importlib.import_module(f"fasterrcnn_ops.{name}")
    results = doctest.testmod(module, extraglobs={"torch": torch})
    assert results.failed == 0
