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
    """What the RPN says about each anchor of a batch; N = H·W·A anchors in the order (y·W + x)·A + a.

    Proposals are made from the maps as they are; training takes them apart by anchor.

    Attributes:
        score_map: float[B, A·s, H, W], channel a·s + i is score i of anchor a; s = 2 as (background, object), or s = 1
            where objectness is a sigmoid.
        delta_map: float[B, 4A, H, W], channel 4a + i is offset i of anchor a.
        grid: The anchors of each location.
    """

    score_map: Tensor
    delta_map: Tensor
    grid: AnchorGrid

    @property
    def anchors(self) -> Tensor:
        """float[N, 4] in pixels of the batch, the same for every image."""
        return self.grid((self.score_map.shape[2], self.score_map.shape[3]), self.score_map.device)

    @property
    def logits(self) -> Tensor:
        """float[B, N, 2] as (background, object), or float[B, N, 1]."""
        return self._by_anchor(self.score_map)

    @property
    def deltas(self) -> Tensor:
        """float[B, N, 4], offsets from the anchors."""
        return self._by_anchor(self.delta_map)

    @property
    def objectness_map(self) -> Tensor:
        """float[B, A, H, W], the log-odds of being an object; of a softmax pair the difference of its logits."""
        if self.score_map.shape[1] == len(self.grid):
            return self.score_map
        scores = self.score_map.float()
        return scores[:, 1::2] - scores[:, 0::2]

    def _by_anchor(self, maps: Tensor) -> Tensor:
        # Channels a·s + i of a location become row a, column i: move the channels last, then split them.
        batch, channels, height, width = maps.shape
        return maps.permute(0, 2, 3, 1).reshape(batch, height * width * len(self.grid), channels // len(self.grid))


def log_odds(logits: Tensor) -> Tensor:
    """Log-odds of being an object, [..., 2] (of a softmax over background, object) or [..., 1] (of a sigmoid) → [...].

    As floats they tell more boxes apart than probabilities do, which matters where boxes are put in order.
    """
    logits = logits.float()
    return logits[..., 1] - logits[..., 0] if logits.shape[-1] == 2 else logits[..., 0]


def objectness(logits: Tensor) -> Tensor:
    """Probability of being an object, [..., 2] or [..., 1] → [...], as :func:`log_odds`."""
    return log_odds(logits).sigmoid()


class RegionProposalNetwork(nn.Module):
    """Scores and offsets of anchors, and the proposals they make.

    Args:
        head: Maps features [B, C, H, W] to scores [B, A·s, H, W] and offsets [B, A·4, H, W].
        anchors: The anchors of a feature map.
        proposal_layer: Turns scored anchors into proposals.
        scores_per_anchor: s, 2 for a softmax over (background, object), 1 for a sigmoid.
    """

    def __init__(
        self,
        head: nn.Module | None,
        anchors: AnchorGrid,
        proposal_layer: ProposalLayer,
        scores_per_anchor: int,
    ) -> None:
        super().__init__()
        if head is not None:
            self.head = head
        self.anchors = anchors
        self.proposal_layer = proposal_layer
        self.scores_per_anchor = scores_per_anchor

    def maps(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [B, A·s, H, W] and offsets [B, A·4, H, W]: channel a·s + i is number i of anchor a."""
        return self.head(features)

    def predict(self, features: Tensor) -> RPNOutput:
        """Scores and offsets of every anchor of features [B, C, H, W]."""
        return RPNOutput(*self.maps(features), self.anchors)

    def propose(
        self,
        output: RPNOutput,
        image_sizes: Tensor | Sequence[Size],
        scales: Tensor | Sequence[float] | None = None,
        *,
        training: bool,
    ) -> Proposals:
        """Proposals of each image; no gradient flows through them (paper, section 3.2: approximate joint training).

        Args:
            output: Of :meth:`predict`.
            image_sizes, scales: As for :class:`ProposalLayer`.
            training: Which counts apply.
        """
        # Detached rather than under no_grad, which a graph would have to switch on and off again.
        objectness_map = RPNOutput(output.score_map.detach(), output.delta_map, output.grid).objectness_map
        if objectness_map.dtype == torch.float64:
            objectness_map = objectness_map.float()  # boxes are float32 in every detector
        delta_map = output.delta_map.detach().to(objectness_map.dtype)
        return self.proposal_layer([objectness_map], [delta_map], [output.grid], image_sizes, scales, training=training)


class RPNHead(nn.Module):
    """A 3×3 convolution with ReLU, and 1×1 convolutions to scores and offsets; weights N(0, 0.01), biases 0.

    Args:
        in_channels: Channels of the features.
        hidden_channels: Channels of the 3×3 convolution.
        anchors_per_location: A.
        scores_per_anchor: 2 for a softmax over (background, object), 1 for a sigmoid.
    """

    def __init__(
        self, in_channels: int, hidden_channels: int, anchors_per_location: int, scores_per_anchor: int
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, hidden_channels, 3, padding=1)
        self.cls_logits = nn.Conv2d(hidden_channels, anchors_per_location * scores_per_anchor, 1)
        self.bbox_pred = nn.Conv2d(hidden_channels, anchors_per_location * 4, 1)
        initialise(self.conv, self.cls_logits, self.bbox_pred)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] → scores [B, A·s, H, W] and offsets [B, A·4, H, W]."""
        hidden = F.relu(self.conv(features))
        return self.cls_logits(hidden), self.bbox_pred(hidden)


class SeparateRPNHead(nn.Module):
    """A 3×3 convolution of its own before the scores and before the offsets, without activations.

    Arguments, shapes and initialisation as :class:`RPNHead`'s.
    """

    def __init__(
        self, in_channels: int, hidden_channels: int, anchors_per_location: int, scores_per_anchor: int
    ) -> None:
        super().__init__()
        self.score_conv = nn.Conv2d(in_channels, hidden_channels, 3, padding=1)
        self.score = nn.Conv2d(hidden_channels, anchors_per_location * scores_per_anchor, 1)
        self.loc_conv = nn.Conv2d(in_channels, hidden_channels, 3, padding=1)
        self.loc = nn.Conv2d(hidden_channels, anchors_per_location * 4, 1)
        initialise(self.score_conv, self.score, self.loc_conv, self.loc)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] → scores [B, A·s, H, W] and offsets [B, A·4, H, W]."""
        return self.score(self.score_conv(features)), self.loc(self.loc_conv(features))


def initialise(*layers: nn.Conv2d) -> None:
    """Weights N(0, 0.01), biases 0 (Faster R-CNN paper, section 3.1.3)."""
    for layer in layers:
        nn.init.normal_(layer.weight, 0, 0.01)
        nn.init.zeros_(layer.bias)


class ClassicRPN(RegionProposalNetwork):
    """The classic family's RPN: its layers are called ``conv1``, ``score`` and ``loc``, and it can be called itself.

    Args:
        in_channels: Channels of the features.
        hidden_channels: Channels of the 3×3 convolution.
        anchors: The anchors of a feature map.
        proposal_layer: Turns scored anchors into proposals.
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
        training_counts: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(None, anchors, proposal_layer, scores_per_anchor=2)
        self.conv1 = nn.Conv2d(in_channels, hidden_channels, 3, padding=1)
        self.score = nn.Conv2d(hidden_channels, len(anchors) * 2, 1)
        self.loc = nn.Conv2d(hidden_channels, len(anchors) * 4, 1)
        initialise(self.conv1, self.score, self.loc)
        self.training_counts = training_counts
        self.seed = seed

    def maps(self, features: Tensor) -> tuple[Tensor, Tensor]:
        hidden = F.relu(self.conv1(features))
        return self.score(hidden), self.loc(hidden)

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
