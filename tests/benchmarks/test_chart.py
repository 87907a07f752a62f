"""Ratios and their picture."""

from __future__ import annotations

import json

import chart
import pytest
from PIL import Image

SAVED = {
    "machine": {"cpu": "some processor", "threads": 1},
    "median_seconds": {
        "nms/small": {"ours": 0.001, "torchvision": 0.012, "reference": 0.5},
        "nms/alone": {"ours": 0.001, "reference": 0.25},
        "iou/slow": {"ours": 0.2, "torchvision": 0.1},
    },
}


def test_ratios():
    assert chart.ratios(SAVED["median_seconds"], "torchvision") == {"iou/slow": 0.5, "nms/small": 12.0}
    assert chart.ratios(SAVED["median_seconds"], "reference") == {"nms/alone": 250.0, "nms/small": 500.0}


def test_picture(tmp_path):
    pytest.importorskip("matplotlib")
    file = tmp_path / "cpu.json"
    file.write_text(json.dumps(SAVED))
    picture = chart.draw_file(file)
    assert picture == tmp_path / "cpu.png"
    assert min(Image.open(picture).size) > 100


def test_nobody_to_compare_with(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="torchvision took part in no case"):
        chart.draw({**SAVED, "median_seconds": {}}, tmp_path / "x.png")
