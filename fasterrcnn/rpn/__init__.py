"""Region proposal network: anchors, the head that scores them, and the layer that turns scores into proposals."""

from fasterrcnn.rpn.anchors import AnchorGrid
from fasterrcnn.rpn.head import (
    ClassicRPN,
    RegionProposalNetwork,
    RPNHead,
    RPNOutput,
    SeparateRPNHead,
    log_odds,
    objectness,
)
from fasterrcnn.rpn.proposals import ProposalLayer, fill_up

__all__ = [
    "AnchorGrid",
    "ClassicRPN",
    "ProposalLayer",
    "RPNHead",
    "RPNOutput",
    "RegionProposalNetwork",
    "SeparateRPNHead",
    "fill_up",
    "log_odds",
    "objectness",
]
