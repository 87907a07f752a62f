"""VGG-16 (Simonyan and Zisserman, 2015, configuration D) as the trunk of a detector."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from fasterrcnn.backbone.base import PretrainedSource, RoIStage

# Output channels of the 3×3 convolutions, "M" for a 2×2 max-pool. The fifth pool is left out: stride 16, not 32.
LAYERS = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)


class VGG16(nn.Sequential):
    """The first 30 layers of VGG-16's features: [B, 3, H, W] → [B, 512, ⌊H/16⌋, ⌊W/16⌋]; 600 × 600 gives 37 × 37.

    Layers are numbered as in the published file, and the last pool is dropped (Faster R-CNN paper, section 3.1).
    """

    out_channels = 512
    stride = 16
    pretrained = PretrainedSource(
        url="https://download.pytorch.org/models/vgg16-397923af.pth",
        # Dropout is gone from the RoI stage, so fc7 moves from position 3 to 2.
        names=(
            ("features.", "{backbone}."),
            ("classifier.0.", "{stage}.0."),
            ("classifier.3.", "{stage}.2."),
        ),
        unused=("classifier.6.",),
    )

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        channels = 3
        for item in LAYERS:
            if item == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(channels, item, 3, padding=1), nn.ReLU(inplace=True)]
                channels = item
        super().__init__(*layers)
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def stages(self) -> list[nn.Module]:
        """The five blocks between the pools."""
        layers = list(self)
        pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        return [nn.Sequential(*layers[a:b]) for a, b in zip([0, *pools], [*pools, len(layers)], strict=True)]

    def roi_stage(self) -> RoIStage:
        """fc6 and fc7 on 7 × 7 cells, 4096 features; dropout and the ImageNet classifier (fc8) removed."""
        module = nn.Sequential(
            OrderedDict(
                [
                    ("flatten", nn.Flatten()),
                    ("0", nn.Linear(512 * 7 * 7, 4096)),
                    ("1", nn.ReLU(inplace=True)),
                    ("2", nn.Linear(4096, 4096)),
                    ("3", nn.ReLU(inplace=True)),
                ]
            )
        )
        for name in ("0", "2"):
            layer = module.get_submodule(name)
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.zeros_(layer.bias)
        return RoIStage(pooled_size=7, module=module, out_features=4096)
