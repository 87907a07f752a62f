"""The code of docs/stepwise.md runs, and its pictures are there and small."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "stepwise.md"


@pytest.fixture(scope="module")
def run_document():
    spec = importlib.util.spec_from_file_location(
        "make_stepwise_pictures", ROOT / "tools" / "make_stepwise_pictures.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run_document


@pytest.fixture(scope="module")
def shown() -> list[str]:
    """The pictures the page shows, in order."""
    return re.findall(r"!\[[^\]]+\]\(stepwise/([a-z_]+\.png)\)", DOCUMENT.read_text(encoding="utf-8"))


def test_the_code_runs_and_makes_every_picture(run_document, shown, tmp_path):
    names = run_document(PICTURES=tmp_path / "stages")
    assert sorted(path.name for path in (tmp_path / "stages").iterdir()) == sorted(shown)
    for path in (tmp_path / "stages").iterdir():
        with Image.open(path) as picture, Image.open(DOCUMENT.with_suffix("") / path.name) as committed:
            assert picture.size == committed.size, path.name
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 5, path.name
    assert set(names["losses"]) == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    assert all(parameter.grad is not None for parameter in names["model"].parameters())


def test_a_failing_line_is_named(run_document):
    """The traceback has the line of the page."""
    with pytest.raises(FileNotFoundError) as error:
        run_document(PICTURES=Path("/nowhere/at/all"))
    line = error.traceback[2].lineno  # this test, run_document, the page
    assert "PICTURES.mkdir" in DOCUMENT.read_text(encoding="utf-8").splitlines()[line]


def test_committed_pictures_are_those_shown_and_small(shown):
    files = list(DOCUMENT.with_suffix("").iterdir())
    assert sorted(path.name for path in files) == sorted(shown)
    sizes = [path.stat().st_size for path in files]
    assert max(sizes) < 60_000
    assert sum(sizes) < 500_000


def test_every_stage_is_in_the_document():
    from fasterrcnn.stepwise import stages

    code = "".join(re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL))
    assert [name for name in stages.__all__ if f"stepwise.{name}(" not in code] == []


def test_tables_of_the_document():
    """Numbers of the full size that the text repeats."""
    from fasterrcnn import stepwise

    anchors = stepwise.make_anchors((50, 50))
    inside = int(stepwise.anchors_inside(anchors, (800, 800)).sum())
    text = DOCUMENT.read_text(encoding="utf-8")

    for number in (len(anchors), inside, len(anchors) - inside, 512 * 7 * 7):
        assert f"{number:,}" in text
