"""Region proposal network: anchors, the head that scores them, and the layer that turns scores into proposals."""

from fasterrcnn.rpn.anchors import AnchorGrid
from fasterrcnn.rpn.head import RegionProposalNetwork, RPNOutput, objectness
from fasterrcnn.rpn.proposals import ProposalLayer, fill_up

__all__ = ["AnchorGrid", "ProposalLayer", "RPNOutput", "RegionProposalNetwork", "fill_up", "objectness"]
