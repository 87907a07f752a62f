"""How each system is trained by default: what differs from the defaults of the configuration's sections."""

from __future__ import annotations

from typing import Any

# For the tiny trunk and the shapes: 600 steps of about a quarter of a second. Pictures keep their size; shapes have
# sides of 26 to 70 pixels, and so have anchors; few proposals do for few objects.
_FEW = {"rpn_pre_nms_top_n": (300, 150), "rpn_post_nms_top_n": (100, 50)}
_SHAPE_SIDES = (28.0, 44.0, 64.0)
TINY_SHAPES = {
    "classic": {**_FEW, "anchor_scales": (1.75, 2.75, 4.0), "min_size": 128, "max_size": 160},
    "c4": {**_FEW, "anchor_sizes": _SHAPE_SIDES, "min_size": 128, "max_size": 160},
    "stepwise": {**_FEW, "anchor_sizes": _SHAPE_SIDES, "image_size": (128, 160)},
}
TRAIN_SHAPES = {"steps": 600, "batch_size": 8, "lr": 2e-3, "warmup_steps": 50, "checkpoint_every": 100}
# Slower to tell circles from squares: more and smaller steps, at the same cost.
MORE_STEPS = {"resnet50_c4": {"steps": 1000, "batch_size": 4, "lr": 1.5e-3}}

# The scenes are harder; these are the demonstration's numbers. The ratio 5 is for rockets.
_SOME = {"rpn_pre_nms_top_n": (600, 300), "rpn_post_nms_top_n": (150, 100)}
_TALL = (0.5, 1.0, 2.0, 5.0)
_SCENE_SIDES = (32.0, 64.0, 112.0, 192.0)
TINY_SCENES = {
    "classic": {**_SOME, "anchor_scales": (2.0, 4.0, 7.0, 12.0), "ratios": _TALL, "min_size": 192, "max_size": 512},
    "c4": {**_SOME, "anchor_sizes": _SCENE_SIDES, "anchor_ratios": _TALL, "min_size": 192, "max_size": 512},
    "stepwise": {**_SOME, "anchor_sizes": _SCENE_SIDES, "anchor_ratios": _TALL, "image_size": (192, 256)},
}
TRAIN_SCENES = {"steps": 1500, "batch_size": 4, "lr": 1.5e-3, "warmup_steps": 40, "checkpoint_every": 150}

FAMILIES = {
    "classic_vgg16": "classic",
    "classic_resnet50": "classic",
    "resnet50_c4_sigmoid": "c4",
    "resnet50_c4": "c4",
    "stepwise_vgg16": "stepwise",
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
        data: Name of the data set. Files are trained on like the scenes, whose objects have all sizes.
    """
    if backbone != "tiny":
        return FULL_SIZE
    model, train = {"shapes": (TINY_SHAPES, TRAIN_SHAPES), "scenes": (TINY_SCENES, TRAIN_SCENES)}.get(
        data, (TINY_SCENES, TRAIN_SCENES)
    )
    train = {**train, **(MORE_STEPS.get(system, {}) if data == "shapes" else {})}
    # Every picture is generated once and never repeated.
    images = {"train_images": train["steps"] * train["batch_size"]} if data in ("shapes", "scenes") else {}
    return {"model": model[FAMILIES[system]], "train": train, "data": images}
