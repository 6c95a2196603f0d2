"""Image files to training batches: the published way against ours, alternating in one process.

JPEGs of 500 x 375 pixels and the size of a photograph are made in a temporary folder. Then two things are timed.

The worker stage, in this process on one core, images a second:

    pil     everything with PIL and torchvision's transforms, image by image, as the published ImageNet-LT code does: a
            file is decoded, and twice cropped and resized to 224, jittered (0.4, 0.4, 0.4), turned grey (0.2), blurred
            (0.5), mirrored, made a tensor and normalised
    worker  what a worker of `glmc.batches.streaming` does: a file is decoded, and twice cropped and resized to 224; the
            rest is left to the device

End to end on all cores, images a second that arrive as normalised batches of two views:

    pil     torch.utils.data.DataLoader with as many workers as cores, each doing all of the above
    ours    `StreamingLoader` with as many workers; here the device is the CPU, so that jitter, blur and the like share
            the cores with the workers, which they do not on a GPU

Each is measured in rounds, by turns; a ratio is that of a round's two rates.

    python benchmarks/loaders.py                       # about two minutes
    python benchmarks/loaders.py --images 500 --seconds 20 --json
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from glmc import recipe
from glmc.batches.augment import View
from glmc.batches.resident import Stream
from glmc.batches.streaming import StreamingLoader
from glmc.data import files, many
from glmc.data.split import Paths
from glmc.runtime import environment

WIDTH, HEIGHT, QUALITY = 500, 375, 90
ROUNDS = {"worker": 9, "end_to_end": 3}
BATCH = 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photograph(number: int) -> Image.Image:
    """Random patches of every size, as in nature the larger the stronger, and a little noise."""
    source = np.random.default_rng(number)
    pixels = source.normal(128, 6, (HEIGHT, WIDTH, 1))
    for across, strength in ((4, 60), (16, 30), (64, 16), (128, 8)):
        coarse = source.normal(0, strength, (3, across * HEIGHT // WIDTH + 2, across + 2)).astype(np.float32)
        planes = [Image.fromarray(plane).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for plane in coarse]
        pixels = pixels + np.stack([np.asarray(plane) for plane in planes], axis=-1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


# ------------------------------------------------------------------------------------------------ the published way


class Blur:
    """A Gaussian blur of random width."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """The image, blurred."""
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


class Published(Dataset):
    """Two views of each file, everything with PIL."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.augment = transforms.Compose(
            [
                transforms.RandomResizedCrop(224),
                transforms.ColorJitter(0.4, 0.4, 0.4),
                transforms.RandomGrayscale(0.2),
                transforms.RandomApply([Blur()], 0.5),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        with open(self.paths[row], "rb") as file:
            image = Image.open(file).convert("RGB")
        return self.augment(image), self.augment(image)


def published_worker(paths: Paths) -> Iterator[int]:
    dataset = Published(paths)
    for row in cycle(range(len(paths))):
        dataset[row]
        yield 1


def published_batches(paths: Paths) -> Iterator[int]:
    loader = DataLoader(
        Published(paths), BATCH, shuffle=True, num_workers=many.cores(), persistent_workers=True, drop_last=True
    )
    while True:
        for views in loader:
            yield len(views[0])


# -------------------------------------------------------------------------------------------------------------- ours


def streaming(paths: Paths) -> StreamingLoader:
    """The loader of the ImageNet-LT recipe: two views cut out of whole images."""
    cpu = torch.device("cpu")
    operations = recipe.load("imagenet_lt/glmc_published").views["train"]
    sizes, channels = files.headers(paths, cache_dir=None)
    return StreamingLoader(
        paths,
        np.zeros(len(paths), dtype=np.int64),
        [View(operations, MEAN, STD, cpu) for _ in range(2)],
        {},
        size=256,
        channels=channels,
        sizes=sizes,
        batch_size=BATCH,
        seed=0,
        device=cpu,
    )


def our_worker(paths: Paths) -> Iterator[int]:
    loader = streaming(paths)
    table: Stream = loader.epoch(0)["instance"]
    boxes = [view["resized_crop"].numpy() for view in table.views]
    for task in cycle(loader._tasks([(table.rows.numpy(), boxes)], 0)):
        assert loader._shop[task] is None
        yield len(task.rows)


def our_batches(paths: Paths) -> Iterator[int]:
    loader, epoch = streaming(paths), 0
    while True:
        for part in loader.parts(loader.epoch(epoch)):
            images = len(loader.batch(part["instance"]).labels)
            if images == BATCH:  # the other one leaves them out, too
                yield images
        epoch += 1


# ------------------------------------------------------------------------------------------------------------- timing


def alternate(jobs: dict[str, Iterator[int]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Images a second of each job in each round, without what workers had made in advance while it was not its turn."""
    rates: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            for _ in range(3 * many.cores()):
                next(job)
            done, began = 0, time.perf_counter()
            while time.perf_counter() - began < seconds / rounds / len(jobs):
                done += next(job)
            rates[name].append(done / (time.perf_counter() - began))
    return rates


def told(rates: dict[str, list[float]], ours: str) -> dict[str, object]:
    ratios = [mine / theirs for mine, theirs in zip(rates[ours], rates["pil"], strict=True)]
    ratio = {"min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)}
    each = {name: round(statistics.median(values), 1) for name, values in rates.items()}
    return {**each, "ratio": {name: round(value, 3) for name, value in ratio.items()}}


SENTENCES = """\
{images} JPEGs of 500 x 375 pixels, {kilobytes} kB on average, two views of each
worker stage, one core: {worker_images_per_second_per_core} images/s, with PIL doing everything \
{pil_images_per_second_per_core}, ratio {ratio[median]} (min {ratio[min]}, max {ratio[max]})
end to end, {environment[cores]} cores: {end_to_end[images_per_second]} images/s, with PIL \
{end_to_end[pil_images_per_second]}, ratio {end_to_end[ratio][median]} (min {end_to_end[ratio][min]}, \
max {end_to_end[ratio][max]})"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256, help="how many files")
    parser.add_argument("--seconds", type=float, default=40, help="for the worker stage, and again for end to end")
    parser.add_argument("--json", action="store_true", help="print JSON instead of sentences")
    words = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = Paths.from_list(folder, [f"{number}.jpg" for number in range(max(words.images, BATCH))])
        for number in range(len(paths)):
            photograph(number).save(paths[number], quality=QUALITY)
        kilobytes = statistics.mean(Path(paths[row]).stat().st_size for row in range(len(paths))) / 1e3
        stage = told(
            alternate({"pil": published_worker(paths), "worker": our_worker(paths)}, ROUNDS["worker"], words.seconds),
            "worker",
        )
        torch.set_num_threads(many.cores())
        end = told(
            alternate(
                {"pil": published_batches(paths), "ours": our_batches(paths)}, ROUNDS["end_to_end"], words.seconds
            ),
            "ours",
        )
    result = {
        "images": len(paths),
        "kilobytes": round(kilobytes, 1),
        "worker_images_per_second_per_core": stage["worker"],
        "pil_images_per_second_per_core": stage["pil"],
        "ratio": stage["ratio"],
        "end_to_end": {"images_per_second": end["ours"], "pil_images_per_second": end["pil"], "ratio": end["ratio"]},
        "environment": environment(torch.device("cpu"), "float32", " ".join(sys.argv)),
    }
    print(json.dumps(result, indent=1) if words.json else SENTENCES.format(**result))


if __name__ == "__main__":
    main()
