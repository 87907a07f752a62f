"""Imports go one way only: operators know nothing of detectors."""

from __future__ import annotations

import ast
from pathlib import Path

import support

import fasterrcnn_ops

OPS = Path(fasterrcnn_ops.__file__).parent


def imported(path: Path) -> set[str]:
    """Top-level packages that a source file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


def test_operators_never_import_detectors():
    sources = list(OPS.rglob("*.py"))
    assert len(sources) > 5
    assert [path.name for path in sources if "fasterrcnn" in imported(path)] == []


def test_the_check_would_notice(tmp_path):
    (tmp_path / "bad.py").write_text("def f():\n    from fasterrcnn.types import Size\n", encoding="utf-8")
    assert "fasterrcnn" in imported(tmp_path / "bad.py")


def test_using_operators_loads_no_detector():
    code = "import sys, fasterrcnn_ops; fasterrcnn_ops.nms; print({m.split('.')[0] for m in sys.modules})"
    done = support.run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "'fasterrcnn_ops'" in done.stdout
    assert "'fasterrcnn'" not in done.stdout
