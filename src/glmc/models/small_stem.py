"""ResNet-18, 34 and 50 for small images. He et al., CVPR 2016, arXiv:1512.03385, table 1, with a small stem.

The four stages of the ImageNet networks behind a 3x3 convolution of stride 1 instead of one of 7x7 with stride 2 and a
max-pooling, so that 32 pixels become 4 and not 1. Shortcuts that change the shape are 1x1 convolutions (option B), a
bottleneck strides in its 3x3 convolution, and weights start as torch's layers do. Without classifiers they have 11.2,
21.3 and 23.5 M parameters.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}  # depth -> blocks of each stage


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; float [B, inputs, H, W] -> [B, width, H / stride, W / stride]."""

    expansion = 1  # channels of the output for each of `width`

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y.add_(self.shortcut(x)), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; [B, inputs, H, W] -> [B, 4 * width, H / stride, W / stride]."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.shortcut = _shortcut(inputs, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return F.relu(y.add_(self.shortcut(x)), inplace=True)


class SmallStemResNet(nn.Module):
    """Float [B, channels, H, W] -> features float [B, 512], or [B, 2048] at depth 50.

    Args:
        depth: 18 and 34 have basic blocks, 50 has bottlenecks.
        channels: of the input, 1 or 3.
    """

    def __init__(self, depth: Literal[18, 34, 50], channels: int = 3) -> None:
        super().__init__()
        block = Bottleneck if depth == 50 else BasicBlock
        self.out_dim = 512 * block.expansion
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        first, second, third, fourth = BLOCKS[depth]
        self.layer1 = _stage(block, first, 64, 64, stride=1)
        self.layer2 = _stage(block, second, 64 * block.expansion, 128, stride=2)
        self.layer3 = _stage(block, third, 128 * block.expansion, 256, stride=2)
        self.layer4 = _stage(block, fourth, 256 * block.expansion, 512, stride=2)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)  # [B, 64, H, W]
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # [B, out_dim, H/8, W/8]
        return x.mean((2, 3))  # [B, out_dim]


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Nothing where the shapes agree, else a 1x1 convolution."""
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def _stage(
    block: type[BasicBlock] | type[Bottleneck], blocks: int, inputs: int, width: int, stride: int
) -> nn.Sequential:
    rest = [block(block.expansion * width, width, 1) for _ in range(blocks - 1)]
    return nn.Sequential(block(inputs, width, stride), *rest)
