"""ResNet-50 (He et al., 2016) as the trunk of a detector, in the variants the Faster R-CNN families use."""

from __future__ import annotations

from torch import Tensor, nn

from fasterrcnn.backbone.base import PretrainedSource, RoIStage

EXPANSION = 4


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 with a shortcut; ``planes`` in the middle, 4 · ``planes`` out.

    Args:
        in_channels: Channels of the input.
        planes: Channels of the 3×3 convolution.
        stride: Stride of the block.
        stride_on_1x1: The stride sits on the first 1×1 (the original and the classic line) rather than on the 3×3.
    """

    def __init__(self, in_channels: int, planes: int, stride: int = 1, stride_on_1x1: bool = True) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_on_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, planes, 1, stride=first, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=second, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * EXPANSION, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * EXPANSION)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != planes * EXPANSION:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, planes * EXPANSION, 1, stride=stride, bias=False),
                nn.BatchNorm2d(planes * EXPANSION),
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + shortcut)


def make_layer(in_channels: int, planes: int, blocks: int, stride: int, stride_on_1x1: bool) -> nn.Sequential:
    """One stage of ``blocks`` bottlenecks, the first of which has the stride."""
    first = Bottleneck(in_channels, planes, stride, stride_on_1x1)
    rest = [Bottleneck(planes * EXPANSION, planes, 1, stride_on_1x1) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


class ResNet50(nn.Sequential):
    """conv1 … layer3 of ResNet-50: [B, 3, H, W] → [B, 1024, H/16, W/16]; 600 × 600 gives 38 × 38.

    Children are numbered 0 conv1, 1 bn1, 2 relu, 3 pool, 4 layer1, 5 layer2, 6 layer3, the names this line's
    checkpoints use.

    Args:
        stride_on_1x1: Where a bottleneck has its stride, see :class:`Bottleneck`.
        stem_pool_padding: Padding of the 3×3 stem pool: 0 with rounding up (classic) or 1 (later families).
    """

    out_channels = 1024
    stride = 16
    pretrained = PretrainedSource(
        url="https://download.pytorch.org/models/resnet50-19c8e357.pth",
        names=(
            ("conv1.", "extractor.0."),
            ("bn1.", "extractor.1."),
            ("layer1.", "extractor.4."),
            ("layer2.", "extractor.5."),
            ("layer3.", "extractor.6."),
            ("layer4.", "head.classifier.0."),
        ),
        unused=("fc.",),
    )

    def __init__(self, *, stride_on_1x1: bool = True, stem_pool_padding: int = 0) -> None:
        super().__init__(
            nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=stem_pool_padding, ceil_mode=stem_pool_padding == 0),
            make_layer(64, 64, 3, 1, stride_on_1x1),
            make_layer(256, 128, 4, 2, stride_on_1x1),
            make_layer(512, 256, 6, 2, stride_on_1x1),
        )
        self.stride_on_1x1 = stride_on_1x1
        initialise(self)

    def roi_stage(self) -> RoIStage:
        """layer4 on 14 × 14 cells, then 7 × 7 average pooling: 2048 features."""
        layer4 = make_layer(1024, 512, 3, 2, self.stride_on_1x1)
        initialise(layer4)
        return RoIStage(14, nn.Sequential(layer4, nn.AvgPool2d(7), nn.Flatten()), 2048)


def initialise(module: nn.Module) -> None:
    """He initialisation by outgoing fan for convolutions; batch norms keep weight 1 and bias 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
