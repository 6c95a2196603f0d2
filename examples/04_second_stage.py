"""A second stage on a network that glmc has not trained: adjustments of its classifier, and cRT.

    python examples/04_second_stage.py [--epochs 10]

Any network that ends in a linear layer will do. The adjustments (tau-normalisation, logit adjustment, MaxNorm) are
functions of that layer's weights and take no time; cRT trains a new one on class-balanced batches.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from glmc import logit_adjustment, max_norm, norm_limit, tau_norm

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=10)
epochs = parser.parse_args().epochs
torch.manual_seed(0)
digits = load_digits()
x, y = torch.tensor(digits.images / 8 - 1, dtype=torch.float32).flatten(1), torch.tensor(digits.target)
tail = [int(100 * 0.05 ** (c / 9)) for c in range(10)]  # 100 to 5 training samples a class
rows = torch.cat([(y[:1200] == c).nonzero()[:n, 0] for c, n in enumerate(tail)])
counts = torch.tensor(tail)

# Your network, trained your way: here with plain cross entropy.
body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
head = nn.Linear(64, 10)
optimizer = torch.optim.AdamW([*body.parameters(), *head.parameters()], lr=3e-3)
for _ in range(epochs):
    for part in rows[torch.randperm(len(rows))].split(16):
        optimizer.zero_grad()
        F.cross_entropy(head(body(x[part])), y[part]).backward()
        optimizer.step()


@torch.inference_mode()
def show(name: str, weight: Tensor, bias: Tensor) -> None:
    """Print the mean recall of the classes on the test samples."""
    right = F.linear(body(x[1200:]), weight, bias).argmax(1) == y[1200:]
    recalls = torch.stack([right[y[1200:] == c].float().mean() for c in range(10)])
    print(f"{name:24} balanced {100 * recalls.mean():.1f} %, worst class {100 * recalls.min():.1f} %")


w, b = head.weight.detach(), head.bias.detach()
show("as trained", w, b)
show("tau-normalised", *tau_norm(w, b, tau=1.0))
show("logit adjustment", *logit_adjustment(w, b, counts, tau=1.0))
show("MaxNorm, shortened rows", max_norm(w, norm_limit(w, threshold=0.2)), b)

crt = nn.Linear(64, 10)  # a new classifier; with glmc's own runs: glmc finetune RUN --stage2 crt
optimizer = torch.optim.SGD(crt.parameters(), lr=0.01, momentum=0.9)
balanced = torch.utils.data.WeightedRandomSampler((1 / counts)[y[rows]].tolist(), epochs * len(rows))
for part in rows[list(balanced)].split(16):
    optimizer.zero_grad()
    F.cross_entropy(crt(body(x[part]).detach()), y[part]).backward()
    optimizer.step()
show("cRT", crt.weight.detach(), crt.bias.detach())
