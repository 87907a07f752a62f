"""What the pages of the systems refer to exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fasterrcnn
from fasterrcnn.build import SYSTEMS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs" / "systems").glob("*.md"))
SYSTEM_OF = {"classic": "classic_vgg16", "stepwise": "stepwise_vgg16"}


def test_every_system_has_a_page():
    index = (ROOT / "docs" / "systems.md").read_text(encoding="utf-8")
    for name in SYSTEMS:
        assert f"| `{name}` | [" in index
    linked = set(re.findall(r"\]\(systems/(\w+)\.md\)", index))
    assert linked == {page.stem for page in PAGES}
    assert {SYSTEM_OF.get(name, name) for name in linked} == SYSTEMS.keys() - {"classic_resnet50"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_and_arguments_exist(page):
    text = page.read_text(encoding="utf-8")
    files = re.findall(r"`(tests/[\w/]+\.py)`", text)
    assert files
    for name in files:
        assert (ROOT / name).exists(), name
    arguments = fasterrcnn.default_arguments(SYSTEM_OF.get(page.stem, page.stem))
    cells = [row.split("|")[3] for row in text.splitlines() if row.startswith("| ") and row.count("|") == 4]
    assert len(cells) > 8
    named = [name for cell in cells for name in re.findall(r"`([a-z]\w+)(?:=[^`]*)?`", cell)]
    assert set(named) <= {*arguments, "argument", "backbone"}, page.stem
    # What a cell says an argument is, it is.
    stated = re.findall(r"`([a-z]\w+)=([^`]+)`", "".join(cells))
    for name, value in stated:
        assert str(arguments[name]) == value.strip('"'), name
