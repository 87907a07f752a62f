"""Every system at its real size: a training step and a detection, within 8 GiB of memory."""

from __future__ import annotations

import json
import math

import full_size
import pytest
from support import run_python

from fasterrcnn.build import SYSTEMS


def test_every_system_has_a_size():
    assert list(full_size.SIZES) == list(SYSTEMS)


@pytest.mark.xdist_group("memory")
@pytest.mark.slow
@pytest.mark.parametrize("task", full_size.TASKS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_real_size(system, task):
    done = run_python(full_size.__file__, system, "--task", task, "--here")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["peak_gib"] < 8
    if task == "train":
        assert result["finite"]
        assert all(math.isfinite(loss) for loss in result["losses"].values())
        assert list(result["losses"]) == ["loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"]
    else:
        assert 0 < result["detections"] <= 100
