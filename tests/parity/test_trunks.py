"""torchvision's own ResNet-50, saved by torch and loaded: the same features, layer4 included."""

from __future__ import annotations

import support
import torch

import fasterrcnn
from fasterrcnn import checkpoints

torchvision = support.require_torchvision()


def test_resnet50(tmp_path):
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(weights=None).eval()
    with torch.no_grad():
        for layer in theirs.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 1.5)
                layer.weight.uniform_(0.3, 0.7)
    torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")
    model = fasterrcnn.build("resnet50_c4_sigmoid", num_classes=1, rpn_channels=8).eval()
    report = checkpoints.load(model, tmp_path / "resnet50.pth")
    assert report.family == "torchvision ResNet-50"
    assert report.left == ("fc.weight", "fc.bias")
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        stem = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        features = theirs.layer3(theirs.layer2(theirs.layer1(stem)))
        torch.testing.assert_close(model.backbone(x), features, rtol=1e-4, atol=1e-4)
        head = model.roi_heads.box.feature_extractor.head
        torch.testing.assert_close(head(features), theirs.layer4(features), rtol=1e-4, atol=1e-4)
