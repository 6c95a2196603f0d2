"""A pretrained backbone of timm's under the method GLMC, in a plain loop.

    python examples/03_timm_backbone.py [--model test_efficientnet] [--epochs 8]

The weights come from the Hugging Face hub. Where that cannot be reached, the example says so and trains from scratch.
Any name that `timm.list_models(pretrained=True)` gives can stand there; this is timm's smallest, made for trying out.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from glmc import GLMC, Batch, ClassWeighted, MixUpCutMix, Step, build_backbone
from glmc.errors import UserError

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="test_efficientnet")
parser.add_argument("--epochs", type=int, default=8)
arguments = parser.parse_args()
torch.manual_seed(0)

try:
    backbone = build_backbone(arguments.model, pretrained=True)
    print(f"{arguments.model} with pretrained weights")
except UserError as error:
    backbone = build_backbone(arguments.model)
    print(f"{arguments.model} from scratch: {error}")

digits = load_digits()
x = F.interpolate(torch.tensor(digits.images / 8 - 1, dtype=torch.float32)[:, None], size=32)
x, y = x.expand(-1, 3, -1, -1), torch.tensor(digits.target)  # float [N, 3, 32, 32], int64 [N]
tail = [int(100 * 0.1 ** (c / 9)) for c in range(10)]  # 100 to 10 training images a class
rows = torch.cat([(y[:1200] == c).nonzero()[:n, 0] for c, n in enumerate(tail)])

counts = torch.tensor(tail)
method = GLMC(backbone, counts, ClassWeighted(counts, exponent=1.0), MixUpCutMix(counts))
optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3, weight_decay=0.05)
lam_of = torch.distributions.Beta(1.0, 1.0)


def batch(part: torch.Tensor) -> Batch:
    """Two views of some images; a shift by a pixel or two stands for your own augmentation."""
    views = tuple(x[part].roll((int(dy), int(dx)), dims=(-2, -1)) for dy, dx in torch.randint(-2, 3, (2, 2)))
    return Batch(views=views, labels=y[part], rows=part)


for epoch in range(arguments.epochs):
    method.train()
    progress = torch.tensor(epoch / arguments.epochs)
    for first, second in torch.stack([rows[torch.randperm(len(rows))] for _ in "ab"]).split(32, dim=1):
        draws = {"lam": lam_of.sample(), "centre": torch.rand(2)}
        terms = method(Step({"instance": batch(first), "rebalanced": batch(second)}, draws, progress))
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    method.eval()
    with torch.inference_mode():
        right = method.predict(x[1200:]).argmax(1) == y[1200:]
    print(f"epoch {epoch + 1}: top-1 {100 * right.float().mean():.1f} %")
