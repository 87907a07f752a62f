"""How each system is trained by default: what differs from the defaults of the configuration's sections."""

from __future__ import annotations

from typing import Any

# For the tiny trunk and the shapes, in about 600 steps of a quarter of a second. Pictures keep their size; shapes have
# sides of 26 to 70 pixels, and anchors of such sizes; few proposals do for few objects.
TINY_SHAPES = {
    "model": {
        "anchor_scales": (1.75, 2.75, 4.0),
        "min_size": 128,
        "max_size": 160,
        "rpn_pre_nms_top_n": (300, 150),
        "rpn_post_nms_top_n": (100, 50),
    },
    "train": {"steps": 600, "batch_size": 8, "lr": 2e-3, "warmup_steps": 50, "checkpoint_every": 100},
    "data": {"train_images": 4800},
}

# The scenes are harder; these are the demonstration's numbers.
TINY_SCENES = {
    "model": {
        "anchor_scales": (2.0, 4.0, 7.0, 12.0),
        "ratios": (0.5, 1.0, 2.0, 5.0),
        "min_size": 192,
        "max_size": 512,
        "rpn_pre_nms_top_n": (600, 300),
        "rpn_post_nms_top_n": (150, 100),
    },
    "train": {"steps": 1500, "batch_size": 4, "lr": 1.5e-3, "warmup_steps": 40, "checkpoint_every": 150},
    "data": {"train_images": 6000},
}

# The paper's schedule for PASCAL VOC (section 3.1.3) in one go instead of four alternating stages: 60,000 steps at
# 0.001 and 20,000 at 0.0001, one image each, from ImageNet weights.
FULL_SIZE = {
    "train": {
        "steps": 80_000,
        "batch_size": 1,
        "optimizer": "sgd",
        "lr": 1e-3,
        "weight_decay": 5e-4,
        "warmup_steps": 500,
        "schedule": "multistep",
        "milestones": (60_000,),
        "checkpoint_every": 1000,
    },
}


def recipe(system: str, backbone: str | None, data: str) -> dict[str, dict[str, Any]]:
    """What differs from the defaults, by section of the configuration.

    Args:
        system: A name ``fasterrcnn.build`` knows.
        backbone: Name of the trunk; None for the system's own.
        data: Name of the data set.
    """
    if backbone != "tiny":
        return FULL_SIZE
    return {"shapes": TINY_SHAPES, "scenes": TINY_SCENES}[data]
