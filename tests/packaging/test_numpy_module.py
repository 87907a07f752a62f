"""fasterrcnn_ops.numpy stands without torch: it neither imports it nor links it nor misses it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import support
import torch

import fasterrcnn_ops
from fasterrcnn_ops import _library

EVERY_FUNCTION = """
import numpy as np
import fasterrcnn_ops.numpy as ops

boxes, scores = [[0, 0, 8, 8], [0, 0, 8, 7], [20, 0, 30, 8]], [0.5, 0.9, 0.1]
assert ops.nms(boxes, scores, 0.5).tolist() == [1, 2]
assert ops.batched_nms(boxes, scores, [1, 2, 1], 0.5).tolist() == [1, 0, 2]
assert ops.soft_nms(boxes, scores, method="naive")[0].tolist() == [1, 2]
assert ops.box_iou(boxes[:1], boxes[1:]).tolist() == [[0.875, 0.0]]
deltas = ops.encode_boxes(boxes, boxes)
assert ops.decode_boxes(deltas, boxes, image_size=(8, 30)).tolist() == boxes
assert ops.grid_anchors(ops.cell_anchors(8, 1), (2, 3), 8).shape == (6, 4)
assert ops.cpu_level()
try:
    ops.nms(boxes, scores[:2], 0.5)
except ValueError as error:
    print(error)
"""


def run(code: str, **environment: str) -> str:
    result = support.run_python("-c", textwrap.dedent(code), **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_torch_is_not_imported():
    code = EVERY_FUNCTION + "import sys; print([name for name in sys.modules if name.split('.')[0] == 'torch'])"
    assert run(code).splitlines()[-1] == "[]"


def test_works_where_torch_cannot_be_imported():
    said = run("import sys; sys.modules['torch'] = None\n" + EVERY_FUNCTION)
    assert said.strip() == "scores: expected shape [3], one score per box, got [2]"


def test_no_library_of_torch_is_loaded():
    code = EVERY_FUNCTION + "print([line.split()[-1] for line in open('/proc/self/maps')])"
    loaded = run(code).splitlines()[-1]
    assert "_numpy" in loaded
    assert "libtorch" not in loaded
    assert "libc10" not in loaded


def check_stable_abi(*libraries: Path) -> subprocess.CompletedProcess[str]:
    include = Path(torch.__file__).parent / "include"
    tool = Path(__file__).resolve().parents[2] / "tools" / "check_stable_abi.py"
    return subprocess.run([sys.executable, tool, include, *libraries], capture_output=True, text=True)


def test_the_module_is_not_linked_with_torch(tmp_path):
    folder = Path(fasterrcnn_ops.__file__).parent
    (numpy_module,) = folder.glob("_numpy.*.so")
    result = check_stable_abi(numpy_module)
    assert result.returncode == 0, result.stderr
    # The check can fail: the torch operators' library is no such module.
    (pretended := tmp_path / "_numpy.so").write_bytes((folder / "_cpu.abi3.so").read_bytes())
    result = check_stable_abi(pretended)
    assert result.returncode == 1
    assert "_numpy.so: is linked with libtorch" in result.stderr
    assert "_numpy.so: needs aoti_torch_" in result.stderr


@pytest.mark.parametrize("first", ["import fasterrcnn_ops.numpy", "import fasterrcnn_ops.nms"])
def test_beside_the_torch_operators(first):
    code = f"""
    {first}
    import numpy, torch, fasterrcnn_ops, fasterrcnn_ops.numpy
    boxes, scores = torch.rand(50, 4), torch.rand(50)
    found = fasterrcnn_ops.numpy.nms(boxes.numpy(), scores.numpy(), 0.5)
    assert numpy.array_equal(found, fasterrcnn_ops.nms(boxes, scores, 0.5).numpy())
    """
    run(code)


def test_the_level_is_chosen_as_for_torch():
    levels = _library.cpu_levels()
    for wish, expected in {"": levels[-1], **{level: level for level in levels}}.items():
        code = "import fasterrcnn_ops.numpy as ops; print(ops.cpu_level())"
        assert run(code, FASTERRCNN_OPS_CPU_LEVEL=wish).strip() == expected


def test_a_level_that_does_not_exist():
    code = """
    import fasterrcnn_ops.numpy as ops
    for call in (lambda: ops.nms([[0, 0, 1, 1]], [1.0], 0.5), ops.cpu_level):
        try:
            call()
        except RuntimeError as error:
            print(error)
    """
    said = run(code, FASTERRCNN_OPS_CPU_LEVEL="mmx").splitlines()
    assert len(said) == 2
    assert said[0] == said[1]
    assert said[0].startswith("FASTERRCNN_OPS_CPU_LEVEL: expected one of baseline")
    assert said[0].endswith('got "mmx"')


def test_missing_module_is_explained():
    code = """
    import sys
    sys.modules["fasterrcnn_ops._numpy"] = None
    import fasterrcnn_ops.numpy
    """
    result = support.run_python("-c", textwrap.dedent(code))
    assert result.returncode != 0
    assert "built for one Python version; reinstall it for this one" in result.stderr
