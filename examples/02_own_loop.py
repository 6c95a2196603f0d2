"""GLMC in your own training loop: your own network, the mixtures and losses of glmc, nothing else of it.

    python examples/02_own_loop.py [--epochs 20]

The whole method stands in the loop: two batches are mixed twice, two classifiers learn the mixed labels, a predictor
makes both mixtures agree, and the weight moves from the head classes to the tail.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from glmc import ClassWeighted, cutmix, mixup, negative_cosine, soft_cross_entropy

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=20)
epochs = parser.parse_args().epochs
torch.manual_seed(0)
digits = load_digits()
x = torch.tensor(digits.images / 8 - 1, dtype=torch.float32)[:, None]  # [N, 1, 8, 8]
y = torch.tensor(digits.target)
tail = [int(100 * 0.05 ** (c / 9)) for c in range(10)]  # 100 to 5 training images a class
rows = torch.cat([(y[:1200] == c).nonzero()[:n, 0] for c, n in enumerate(tail)])

encoder = nn.Sequential(
    *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
    *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
    *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
)
plain, rebalanced, project = (nn.Linear(64, n) for n in (10, 10, 32))
predict = nn.Linear(32, 32)
network = nn.ModuleList([encoder, plain, rebalanced, project, predict])
optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
weighted = ClassWeighted(torch.tensor(tail), exponent=1.0)  # a loss is a module made from the class counts
lam_of = torch.distributions.Beta(1.0, 1.0)

for epoch in range(epochs):
    progress = torch.tensor(epoch / epochs)
    tailwards = progress**2  # 1 - alpha of the paper
    for first, second in torch.stack([rows[torch.randperm(len(rows))] for _ in "ab"]).split(32, dim=1):
        lam = lam_of.sample()
        cut, left = cutmix(x[first], x[second], lam, centre=torch.rand(2))  # left: the share of `first` in it
        a, b = F.one_hot(y[first], 10).float(), F.one_hot(y[second], 10).float()
        targets = torch.cat([mixup(a, b, share) for share in (lam, left)])
        features = torch.cat([encoder(view) for view in (mixup(x[first], x[second], lam), cut)])
        z = project(features)
        (z_mixed, z_cut), (p_mixed, p_cut) = z.chunk(2), predict(z).chunk(2)
        loss = (1 - tailwards) * soft_cross_entropy(plain(features), targets)
        loss = loss + tailwards * weighted(rebalanced(features), targets, progress)
        loss = loss + 4 * (negative_cosine(p_mixed, z_cut) + negative_cosine(p_cut, z_mixed))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

network.eval()
with torch.inference_mode():
    right = rebalanced(encoder(x[1200:])).argmax(1) == y[1200:]
balanced = torch.stack([right[y[1200:] == c].float().mean() for c in range(10)]).mean()
print(f"balanced accuracy {100 * balanced:.1f} %")
