"""Residual networks for small images. He et al., CVPR 2016, arXiv:1512.03385, section 4.2.

A 3x3 stem, three stages of n blocks with widths w, 2w and 4w, depth 6n + 2, and shortcuts without parameters (option A:
every second pixel, missing channels zero). With w = 16, ResNet-32 has 463,504 parameters without its classifier, with
w = 64, 7,383,616: the network behind the published GLMC tables.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; float [B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride, self.missing = stride, outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.missing:
            before = self.missing // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.missing - before))
        return F.relu(y.add_(x), inplace=True)


class CifarResNet(nn.Module):
    """Float [B, channels, H, W] -> features float [B, 4 * width].

    Args:
        depth: 6n + 2: 20, 32, 44, 56, ...
        width: channels of the first stage.
        channels: of the input, 1 or 3.
    """

    def __init__(self, depth: int, width: int = 16, channels: int = 3) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.out_dim = 4 * width
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(*[Block(width, width, 1) for _ in range(blocks)])
        self.layer2 = nn.Sequential(
            *[Block((1 if i == 0 else 2) * width, 2 * width, 2 if i == 0 else 1) for i in range(blocks)]
        )
        self.layer3 = nn.Sequential(
            *[Block((2 if i == 0 else 4) * width, 4 * width, 2 if i == 0 else 1) for i in range(blocks)]
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)  # [B, w, H, W]
        x = self.layer3(self.layer2(self.layer1(x)))  # [B, 4w, H/4, W/4]
        return x.mean((2, 3))  # [B, 4w]
