"""A plain residual network for small images. pgnas adds the gates: nothing here knows of them."""

from __future__ import annotations

from torch import Tensor, nn


class Block(nn.Module):
    """relu(skip(x) + BN(conv(relu(BN(conv(x)))))), with `inner` channels between the two 3x3 convolutions."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        same = inputs == outputs and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.skip(x) + self.bn2(self.conv2(y)))


class Network(nn.Module):
    """Stem, three stages of two blocks with 16, 32 and 64 channels, classifier.

    Args:
        width: the inner channels of each block are its output channels times this.

    Shape: images [B, in_chans, H, W] -> logits [B, num_classes].
    """

    def __init__(self, num_classes: int, in_chans: int, width: float = 1.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        blocks: list[nn.Module] = []
        inputs = 16
        for outputs, stride in ((16, 1), (32, 2), (64, 2)):
            inner = max(1, round(outputs * width))
            blocks += [Block(inputs, inner, outputs, stride), Block(outputs, inner, outputs, 1)]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.blocks(self.stem(x))).flatten(1))
