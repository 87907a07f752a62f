"""ResNet-50 (He et al., 2016) as the trunk of a detector, in the variants the Faster R-CNN families use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fasterrcnn.backbone.base import PretrainedSource, RoIStage

EXPANSION = 4
URL = "https://download.pytorch.org/models/resnet50-19c8e357.pth"
Norm = Callable[[int], nn.Module]


class FrozenBatchNorm2d(nn.Module):
    """BatchNorm whose statistics and affine parameters never change: y = (x − mean) / √(var + ε) · weight + bias.

    Buffers have BatchNorm's names, so that the same files load.

    Args:
        channels: C of the input [B, C, H, W].
        eps: ε.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        # One multiplication and one addition per pixel; in float32 even where x is not.
        factor = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * factor
        return torch.addcmul(shift.to(x.dtype)[:, None, None], x, factor.to(x.dtype)[:, None, None])

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 with a shortcut; ``planes`` in the middle, 4 · ``planes`` out.

    Args:
        in_channels: Channels of the input.
        planes: Channels of the 3×3 convolution.
        stride: Stride of the block.
        stride_on_1x1: The stride sits on the first 1×1 (the original and the classic line) rather than on the 3×3.
        norm: Makes the normalisation of a number of channels.
    """

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int = 1,
        stride_on_1x1: bool = True,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_on_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, planes, 1, stride=first, bias=False)
        self.bn1 = norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=second, padding=1, bias=False)
        self.bn2 = norm(planes)
        self.conv3 = nn.Conv2d(planes, planes * EXPANSION, 1, bias=False)
        self.bn3 = norm(planes * EXPANSION)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != planes * EXPANSION:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, planes * EXPANSION, 1, stride=stride, bias=False),
                norm(planes * EXPANSION),
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + shortcut)


def make_layer(
    in_channels: int, planes: int, blocks: int, stride: int, stride_on_1x1: bool, norm: Norm = nn.BatchNorm2d
) -> nn.Sequential:
    """One stage of ``blocks`` bottlenecks, the first of which has the stride."""
    first = Bottleneck(in_channels, planes, stride, stride_on_1x1, norm)
    rest = [Bottleneck(planes * EXPANSION, planes, 1, stride_on_1x1, norm) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


class ResNet50(nn.Sequential):
    """conv1 … layer3 of ResNet-50: [B, 3, H, W] → [B, 1024, H/16, W/16]; 600 × 600 gives 38 × 38.

    Children are numbered 0 conv1, 1 bn1, 2 relu, 3 pool, 4 layer1, 5 layer2, 6 layer3, the names the classic line's
    checkpoints use.

    Args:
        stride_on_1x1: Where a bottleneck has its stride, see :class:`Bottleneck`.
        stem_pool_padding: Padding of the 3×3 stem pool: 0 with rounding up (classic) or 1 (later families).
    """

    out_channels = 1024
    stride = 16
    pretrained = PretrainedSource(
        url=URL,
        names=(
            ("conv1.", "{backbone}.0."),
            ("bn1.", "{backbone}.1."),
            ("layer1.", "{backbone}.4."),
            ("layer2.", "{backbone}.5."),
            ("layer3.", "{backbone}.6."),
            ("layer4.", "{stage}.0."),
        ),
        unused=("fc.",),
    )

    def __init__(self, *, stride_on_1x1: bool = True, stem_pool_padding: int = 0) -> None:
        super().__init__(
            nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            stem_pool(stem_pool_padding),
            make_layer(64, 64, 3, 1, stride_on_1x1),
            make_layer(256, 128, 4, 2, stride_on_1x1),
            make_layer(512, 256, 6, 2, stride_on_1x1),
        )
        self.stride_on_1x1 = stride_on_1x1
        initialise(self)

    def stages(self) -> list[nn.Module]:
        """The stem, layer1, layer2 and layer3."""
        *stem, layer1, layer2, layer3 = self
        return [nn.Sequential(*stem), layer1, layer2, layer3]

    def roi_stage(self) -> RoIStage:
        """layer4 on 14 × 14 cells, then 7 × 7 average pooling: 2048 features."""
        layer4 = make_layer(1024, 512, 3, 2, self.stride_on_1x1)
        initialise(layer4)
        return RoIStage(14, layer4, 2048, nn.AvgPool2d(7))


class ResNet50C4(nn.Module):
    """The same trunk by the names of the C4 line: ``stem.conv1``, ``stem.bn1``, ``layer1`` … ``layer3``.

    [B, 3, H, W] → [B, 1024, H/16, W/16]; 1066 × 800 gives 67 × 50.

    Args:
        stride_on_1x1: Where a bottleneck has its stride, see :class:`Bottleneck`.
        stem_pool_padding: Padding of the 3×3 stem pool: 0 with rounding up, or 1.
        frozen_norm: BatchNorm never changes, see :class:`FrozenBatchNorm2d`.
    """

    out_channels = 1024
    stride = 16
    rpn_channels = 1024
    pretrained = PretrainedSource(
        url=URL,
        names=(
            ("conv1.", "{backbone}.stem.conv1."),
            ("bn1.", "{backbone}.stem.bn1."),
            *((f"layer{i}.", f"{{backbone}}.layer{i}.") for i in (1, 2, 3)),
            ("layer4.", "{stage}.layer4."),
        ),
        unused=("fc.",),
    )

    def __init__(self, *, stride_on_1x1: bool = True, stem_pool_padding: int = 1, frozen_norm: bool = True) -> None:
        super().__init__()
        self.norm: Norm = FrozenBatchNorm2d if frozen_norm else nn.BatchNorm2d
        self.stride_on_1x1 = stride_on_1x1
        self.stem = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
                bn1=self.norm(64),
                relu=nn.ReLU(inplace=True),
                pool=stem_pool(stem_pool_padding),
            )
        )
        self.layer1 = make_layer(64, 64, 3, 1, stride_on_1x1, self.norm)
        self.layer2 = make_layer(256, 128, 4, 2, stride_on_1x1, self.norm)
        self.layer3 = make_layer(512, 256, 6, 2, stride_on_1x1, self.norm)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer3(self.layer2(self.layer1(self.stem(images))))

    def stages(self) -> list[nn.Module]:
        """The stem, layer1, layer2 and layer3."""
        return [self.stem, self.layer1, self.layer2, self.layer3]

    def roi_stage(self) -> RoIStage:
        """layer4 on 14 × 14 cells: [K, 2048, 7, 7], which 7 × 7 average pooling reduces."""
        layer4 = make_layer(1024, 512, 3, 2, self.stride_on_1x1, self.norm)
        initialise(layer4)
        return RoIStage(14, nn.Sequential(OrderedDict(layer4=layer4)), 2048, nn.AvgPool2d(7))


def stem_pool(padding: int) -> nn.MaxPool2d:
    """The 3×3 max-pool after the first convolution; without padding it rounds up instead."""
    return nn.MaxPool2d(3, stride=2, padding=padding, ceil_mode=padding == 0)


def initialise(module: nn.Module) -> None:
    """He initialisation by outgoing fan for convolutions; batch norms keep weight 1 and bias 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
