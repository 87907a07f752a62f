"""The region proposal network (Faster R-CNN paper, section 3.1): every anchor gets a score and four offsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fasterrcnn.rpn.anchors import AnchorGrid
from fasterrcnn.rpn.proposals import ProposalLayer, fill_up
from fasterrcnn.types import Proposals, Size


@dataclass
class RPNOutput:
    """What the RPN says about each anchor of a batch.

    Attributes:
        anchors: float[N, 4] in pixels of the batch, the same for every image; N = H·W·A.
        logits: float[B, N, 2] as (background, object), or float[B, N, 1] where objectness is a sigmoid.
        deltas: float[B, N, 4], offsets from the anchors.
    """

    anchors: Tensor
    logits: Tensor
    deltas: Tensor


def objectness(logits: Tensor) -> Tensor:
    """Probability of being an object, [..., 2] (softmax over background, object) or [..., 1] (sigmoid) → [...]."""
    if logits.shape[-1] == 2:
        return logits.float().softmax(dim=-1)[..., 1]
    return logits.float().sigmoid()[..., 0]


class RegionProposalNetwork(nn.Module):
    """A 3×3 convolution with ReLU, and 1×1 convolutions to scores and offsets; weights N(0, 0.01), biases 0.

    Args:
        in_channels: Channels of the features.
        hidden_channels: Channels of the 3×3 convolution.
        anchors: The anchors of a feature map.
        proposal_layer: Turns scored anchors into proposals.
        scores_per_anchor: 2 for a softmax over (background, object), 1 for a sigmoid.
        training_counts: Whether :meth:`forward`, the family's own call, gives as many proposals as in training.
        seed: Of the redraws of :meth:`forward`.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        anchors: AnchorGrid,
        proposal_layer: ProposalLayer,
        *,
        scores_per_anchor: int = 2,
        training_counts: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, hidden_channels, 3, padding=1)
        self.score = nn.Conv2d(hidden_channels, len(anchors) * scores_per_anchor, 1)
        self.loc = nn.Conv2d(hidden_channels, len(anchors) * 4, 1)
        for layer in (self.conv1, self.score, self.loc):
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.zeros_(layer.bias)
        self.anchors = anchors
        self.proposal_layer = proposal_layer
        self.scores_per_anchor = scores_per_anchor
        self.training_counts = training_counts
        self.seed = seed

    def predict(self, features: Tensor) -> RPNOutput:
        """Scores and offsets of every anchor of features [B, C, H, W], in the anchors' order (y·W + x)·A + a."""
        hidden = F.relu(self.conv1(features))
        batch = features.shape[0]
        # Channels a·k + i of a location become row a, column i: move the channels last, then split them.
        logits = self.score(hidden).permute(0, 2, 3, 1).reshape(batch, -1, self.scores_per_anchor)
        deltas = self.loc(hidden).permute(0, 2, 3, 1).reshape(batch, -1, 4)
        anchors = self.anchors((features.shape[2], features.shape[3]), features.device)
        return RPNOutput(anchors, logits, deltas)

    def propose(
        self, output: RPNOutput, image_sizes: Sequence[Size], scales: Sequence[float], *, training: bool
    ) -> Proposals:
        """Proposals of each image; no gradient flows through them (paper, section 3.2: approximate joint training)."""
        with torch.no_grad():
            scores = objectness(output.logits)
            return self.proposal_layer(
                output.anchors, scores, output.deltas.float(), image_sizes, scales, training=training
            )

    def forward(self, x: Tensor, img_size: Size, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The classic family's own call: every image gets exactly R proposals.

        Args:
            x: Features [N, C, H, W].
            img_size: (height, width) of the images in pixels.
            scale: Factor by which the images were resized.

        Returns:
            ``rpn_locs`` [N, H·W·A, 4], ``rpn_scores`` (logits) [N, H·W·A, 2], ``rois`` [N, R, 4] in pixels,
            ``roi_indices`` [N, R] (which image a roi belongs to) and ``anchor`` [1, H·W·A, 4].
        """
        output = self.predict(x)
        batch = x.shape[0]
        proposals = self.propose(output, [img_size] * batch, [scale] * batch, training=self.training_counts)
        rois = fill_up(proposals, img_size, self.seed)
        roi_indices = torch.arange(batch, device=x.device, dtype=rois.dtype)[:, None].expand(-1, rois.shape[1])
        return output.deltas, output.logits, rois, roi_indices.contiguous(), output.anchors[None]
