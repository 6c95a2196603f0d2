"""Learnt and random augmentation of a batch: torchvision's transforms image by image against ours, by turns.

Both begin with decoded images (PIL's, and one uint8 tensor) and end with a normalised batch of 64, on one core.

    python benchmarks/augment.py              # about half a minute
"""

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from glmc.batches.augment import View
from glmc.batches.resize import resized_crop
from glmc.random import Draws
from glmc.runtime import environment

BATCH, MEAN, STD = 64, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
POLICIES = transforms.AutoAugmentPolicy
CASES: dict[str, tuple[list[Any], list[Any]]] = {  # ours, and torchvision's
    "normalised only": ([], []),
    "AutoAugment (CIFAR-10)": (
        [{"autoaugment": {"policy": "cifar10", "fill": 128}}],
        [transforms.AutoAugment(POLICIES.CIFAR10, fill=128)],
    ),
    "AutoAugment (ImageNet)": (
        [{"autoaugment": {"policy": "imagenet", "fill": 128}}],
        [transforms.AutoAugment(POLICIES.IMAGENET, fill=128)],
    ),
    "RandAugment (2, 9)": (
        [{"randaugment": {"n": 2, "m": 9, "fill": 128}}],
        [transforms.RandAugment(2, 9, fill=128)],
    ),
}


def images(side: int) -> torch.Tensor:
    """uint8 [BATCH, side, side, 3]: random patches, smoothly grown."""
    patches = np.random.default_rng(0).integers(0, 256, (BATCH, 12, 12, 3), dtype=np.uint8)
    return resized_crop(torch.from_numpy(patches), torch.tensor([[0.0, 0, 12, 12]]).expand(BATCH, 4), side)


def compare(side: int, ours: list[Any], theirs: list[Any], rounds: int) -> dict[str, float]:
    """Milliseconds a batch, medians over the rounds; the ratio is that of a round's two times."""
    pixels = images(side)
    pictures = [Image.fromarray(image.numpy()) for image in pixels]
    view = View(ours, MEAN, STD, torch.device("cpu"))
    chain = transforms.Compose([*theirs, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    times: list[tuple[float, float]] = []
    for epoch in range(rounds + 1):
        drawn = view.draw(Draws(0, epoch), np.full(BATCH, side), np.full(BATCH, side))
        table = {name: torch.from_numpy(values) for name, values in drawn.items()}
        begun = time.perf_counter()
        view(pixels, table)
        middle = time.perf_counter()
        torch.stack([chain(picture) for picture in pictures])
        times.append((middle - begun, time.perf_counter() - middle))
    times = times[1:]  # the first round warms up
    mine, their = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
    return {"ours_ms": mine, "torchvision_ms": their, "ratio": statistics.median(b / a for a, b in times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    found = {
        f"{name}, {side} x {side}": {key: round(value, 2) for key, value in compare(side, *case, rounds).items()}
        for side in (32, 224)
        for name, case in CASES.items()
    }
    print(json.dumps({**found, "environment": environment(torch.device("cpu"), "float32", "augment.py")}, indent=1))


if __name__ == "__main__":
    main()
