"""Targets, sampling, losses, and a plain training loop."""

from fasterrcnn.training.losses import StageLoss, smooth_l1
from fasterrcnn.training.matching import Matcher
from fasterrcnn.training.sampling import Sampler, image_seeds
from fasterrcnn.training.targets import AnchorTargets, ProposalTargets, RoISamples

__all__ = [
    "AnchorTargets",
    "Matcher",
    "ProposalTargets",
    "RoISamples",
    "Sampler",
    "StageLoss",
    "image_seeds",
    "smooth_l1",
]
