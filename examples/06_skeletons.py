"""Skeletons, or any other sequences [B, C, T, V]: mixing and losses know nothing of images.

    python examples/06_skeletons.py [--epochs 15]

Six movements of five joints in three coordinates, made here, with a long tail. One batch is mixed whole, one is cut in
time: `cutmix(dims=(2,))` takes some frames of all joints; `dims=(2, 3)` would take some joints as well.
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glmc import BalancedSoftmax, cutmix, mixup

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=15)
epochs = parser.parse_args().epochs
torch.manual_seed(0)


def movements(counts: list[int]) -> tuple[Tensor, Tensor]:
    """Coordinates float [N, 3, 32, 5] of joints that swing, and labels int64 [N]: how fast, and which way round."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    speed, turn = 1 + labels // 2, 1 - 2 * (labels % 2)  # [N]
    time, joint = torch.linspace(0, 6.28, 32)[:, None], torch.arange(5)
    start = 6.28 * torch.rand(len(labels), 1, 1)
    angle = speed[:, None, None] * time + turn[:, None, None] * joint + start  # [N, T, V]
    clean = torch.stack([angle.cos(), angle.sin(), (2 * angle).sin()], dim=1)
    return clean + 0.8 * torch.randn_like(clean), labels


tail = [200, 100, 50, 25, 12, 6]
(x, y), (test_x, test_y) = movements(tail), movements([100] * 6)
balanced_softmax = BalancedSoftmax(torch.tensor(tail))

network = nn.Sequential(
    *(nn.Conv2d(3, 32, (5, 3), padding=(2, 1)), nn.BatchNorm2d(32), nn.ReLU()),  # over time and joints
    *(nn.Conv2d(32, 32, (5, 3), stride=(2, 1), padding=(2, 1)), nn.BatchNorm2d(32), nn.ReLU()),
    *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 6)),
)
optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
lam_of = torch.distributions.Beta(1.0, 1.0)

for epoch in range(epochs):
    progress = torch.tensor(epoch / epochs)  # no matter to this loss
    for first, second in torch.stack([torch.randperm(len(y)) for _ in "ab"]).split(32, dim=1):
        lam = lam_of.sample()
        cut, left = cutmix(x[first], x[second], lam, centre=torch.rand(1), dims=(2,))
        a, b = F.one_hot(y[first], 6).float(), F.one_hot(y[second], 6).float()
        whole = balanced_softmax(network(mixup(x[first], x[second], lam)), mixup(a, b, lam), progress)
        local = balanced_softmax(network(cut), mixup(a, b, left), progress)
        optimizer.zero_grad()
        (whole + local).backward()
        optimizer.step()

network.eval()
with torch.inference_mode():
    accuracy = (network(test_x).argmax(1) == test_y).float().mean()
print(f"balanced accuracy {100 * accuracy:.1f} %")
