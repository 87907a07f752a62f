"""How the demonstration's weights were made: data, detector, schedule and seed in one place."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from fasterrcnn import build, checkpoints
from fasterrcnn.classic import FasterRCNN
from fasterrcnn.data.cutouts import ASSETS
from fasterrcnn.data.synthetic import SyntheticScenes
from fasterrcnn.training.checkpoint import forget_checkpoints
from fasterrcnn.training.loop import WEIGHTS as FULL_PRECISION_WEIGHTS
from fasterrcnn.training.loop import TrainConfig, train

WEIGHTS = ASSETS / "demo_tiny.safetensors"
SEED = 1

# The classic system with the tiny backbone, for pictures of about 192 pixels height with objects of 24 to 200 pixels.
# The ratio 5 is for rockets: without it their best anchors overlap them by a quarter only.
DETECTOR = {
    "anchor_scales": (2, 4, 7, 12),
    "ratios": (0.5, 1, 2, 5),
    "min_size": 192,
    "max_size": 512,
    "rpn_pre_nms_top_n": (600, 300),
    "rpn_post_nms_top_n": (150, 100),
}

TRAINING = TrainConfig(
    steps=1500, batch_size=4, lr=1.5e-3, weight_decay=1e-2, warmup_steps=40, checkpoint_every=150, seed=SEED
)


def make_detector() -> FasterRCNN:
    """The untrained detector, with seeded initial weights."""
    torch.manual_seed(SEED)
    return build("classic_vgg16", num_classes=len(SyntheticScenes.class_names), backbone="tiny", seed=SEED, **DETECTOR)


def train_detector(out_dir: Path, config: TrainConfig = TRAINING, *, progress: bool = True) -> Path:
    """Train from scratch; every picture is generated once and never repeated.

    Args:
        out_dir: gets the weights, and meanwhile a checkpoint, so that an interrupted run goes on where it stopped.
        config: schedule.
        progress: show a progress bar.

    Returns:
        The weights, in half precision (half the size, same detections), as :data:`WEIGHTS` was made.
    """
    model = make_detector()
    scenes = SyntheticScenes(config.steps * config.batch_size, seed=config.seed)
    train(model, scenes, out_dir, config, progress=progress)
    path = out_dir / WEIGHTS.name
    checkpoints.save(copy.deepcopy(model).half(), path)
    forget_checkpoints(out_dir)  # so that the next call starts anew instead of ending at once
    (out_dir / FULL_PRECISION_WEIGHTS).unlink(missing_ok=True)
    return path
