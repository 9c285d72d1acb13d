"""The network of small_resnet.py."""

from __future__ import annotations

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """relu(shortcut(x) + BN(conv(relu(BN(conv(x))))))."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        found: Tensor = self.relu2(self.bn2(self.conv2(y)) + self.shortcut(x))
        return found


class SmallResNet(nn.Module):
    """ResNet-20 (He et al. 2016, section 4.2).

    Args:
        width: channels of the stem and the first stage.
        num_classes: logits.
        in_chans: image channels.
        blocks: blocks a stage (3: depth 20).

    Shape: images [B, in_chans, H, W] -> logits [B, num_classes].
    """

    def __init__(self, width: int, num_classes: int, in_chans: int, blocks: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_chans, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        stages, inputs = [], width
        for index in range(3):
            outputs = width * 2**index
            members = []
            for block in range(blocks):
                members.append(BasicBlock(inputs, outputs, 2 if block == 0 and index else 1))
                inputs = outputs
            stages.append(nn.Sequential(*members))
        self.stage1, self.stage2, self.stage3 = stages
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.stem(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits
