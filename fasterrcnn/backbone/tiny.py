"""A small trunk for demonstrations and tests: a whole detector stays below 1.5 million parameters."""

from __future__ import annotations

from torch import Tensor, nn

from fasterrcnn.backbone.base import RoIStage

GROUPS = 8


def conv(in_channels: int, out_channels: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, group norm, ReLU. Group norm: the same in training and use, and indifferent to batches of one."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, size, stride=stride, padding=size // 2, bias=False),
        nn.GroupNorm(GROUPS, out_channels),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """Two 3×3 convolutions and a shortcut, [B, C, H, W] → the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.GroupNorm(GROUPS, channels)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.second(self.first(x)))


class Tiny(nn.Sequential):
    """Four halvings and three residual blocks: [B, 3, H, W] → [B, 160, ⌈H/16⌉, ⌈W/16⌉]."""

    out_channels = 160
    stride = 16
    rpn_channels = 128

    def __init__(self) -> None:
        super().__init__(
            conv(3, 24, stride=2),
            conv(24, 48, stride=2),
            conv(48, 96, stride=2),
            Residual(96),
            conv(96, 160, stride=2),
            Residual(160),
        )
        initialise(self)

    def stages(self) -> list[nn.Module]:
        """The four halvings, the last two with their residual blocks."""
        first, second, *rest = self
        return [first, second, nn.Sequential(*rest[:2]), nn.Sequential(*rest[2:])]

    def roi_stage(self) -> RoIStage:
        """A 1×1 convolution that narrows 7 × 7 cells to 64 channels, then one hidden layer of 128 features."""
        module = nn.Sequential(conv(160, 64, size=1), nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(inplace=True))
        initialise(module)
        return RoIStage(7, module, 128)


def initialise(module: nn.Module) -> None:
    """He initialisation for convolutions and linear layers, biases 0."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
