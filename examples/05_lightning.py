"""GLMC inside Lightning: a LightningModule around the method, Lightning's Trainer for everything else.

python -m pip install lightning && python examples/05_lightning.py [--epochs 8]
"""

import argparse
import sys

import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from glmc import GLMC, Batch, ClassWeighted, MixUpCutMix, Step, build_backbone

try:
    import lightning as L
except ImportError:
    sys.exit("this example needs Lightning: python -m pip install lightning")


class LitGLMC(L.LightningModule):
    """Two loaders side by side give the two streams; the method turns them into loss terms."""

    def __init__(self, counts: torch.Tensor) -> None:
        super().__init__()
        backbone = build_backbone("resnet20", channels=1)
        self.method = GLMC(backbone, counts, ClassWeighted(counts, exponent=1.0), MixUpCutMix(counts))
        self.lam_of = torch.distributions.Beta(1.0, 1.0)

    def training_step(self, batch: dict[str, list[torch.Tensor]], index: int) -> torch.Tensor:
        """A step of the method: the sum of its loss terms."""
        streams = {name: Batch((x, x), y, rows) for name, (x, y, rows) in batch.items()}  # two views: augment here
        draws = {"lam": self.lam_of.sample().to(self.device), "centre": torch.rand(2, device=self.device)}
        progress = torch.tensor(self.current_epoch / self.trainer.max_epochs, device=self.device)
        terms = self.method(Step(streams, draws, progress))
        self.log_dict(terms)
        return sum(terms.values())

    def test_step(self, batch: list[torch.Tensor], index: int) -> None:
        """Top-1 accuracy."""
        x, y, _ = batch
        self.log("accuracy", (self.method.predict(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with momentum."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=8)
epochs = parser.parse_args().epochs
L.seed_everything(0, verbose=False)
digits = load_digits()
x, y = torch.tensor(digits.images / 8 - 1, dtype=torch.float32)[:, None], torch.tensor(digits.target)
counts = torch.tensor([int(100 * 0.1 ** (c / 9)) for c in range(10)])  # 100 to 10 training images a class
rows = torch.cat([(y[:1200] == c).nonzero()[:n, 0] for c, n in enumerate(counts)])
train = TensorDataset(x[rows], y[rows], rows)
test = TensorDataset(x[1200:], y[1200:], torch.arange(1200, len(y)))

streams = {name: DataLoader(train, batch_size=32, shuffle=True) for name in ("instance", "rebalanced")}
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
trainer = L.Trainer(max_epochs=epochs, accelerator="auto", devices=1, **quiet)
model = LitGLMC(counts)
trainer.fit(model, streams)
(found,) = trainer.test(model, DataLoader(test, batch_size=600), verbose=False)
print(f"top-1 {100 * found['accuracy']:.1f} %")
