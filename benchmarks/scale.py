"""A data set of iNaturalist 2018's shape, made here: when training begins, what it holds in memory, how fast it is.

    python benchmarks/scale.py --work work --out benchmarks/records/DATE-scale/scale.json

makes 437,513 different JPEGs of 16 x 16 pixels in 8,142 classes of 1,000 down to 2 images (Pareto), 2 GB on disk, and
prints seconds from the command to the end of the first step, memory of the index and of an epoch's tables, images a
second with one and with two processes, and the pause between two epochs. The pictures are small so that files, lists,
tables and classes are what is measured; decoding of photographs is timed by loaders.py.
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from glmc import ranks, runtime
from glmc.losses.class_weighted import class_weights
from glmc.recipe import Recipe, load
from glmc.runs.files import write_atomic
from glmc.screen import Screen
from glmc.train import distributed, pace
from glmc.train.build import build
from running import circumstances

IMAGES, CLASSES, MOST, LEAST = 437_513, 8_142, 1_000, 2  # of iNaturalist 2018
TESTED = 3  # images of each class
DIFFERENT = 512  # pictures; a comment makes each file another one
VALUES = [
    "data.name=list", "data.train_list=train.txt", "data.test_list=test.txt", "data.size=16", "data.batch_size=256",
    "model={name: resnet20}", "train.epochs=2", "eval.batch_size=1000",
]  # fmt: skip


def counts(images: int, classes: int) -> np.ndarray:
    """Images of each class, int64 [C]: quantiles of a Pareto distribution whose sum is right."""
    at = (np.arange(classes) + 0.5) / classes
    low, high = 0.1, 10.0  # exponents: a small one has many large classes
    for _ in range(60):
        middle = (low + high) / 2
        found = np.clip(LEAST * at ** (-1 / middle), LEAST, MOST).round().astype(np.int64)
        low, high = (middle, high) if found.sum() > images else (low, middle)
    room = np.flatnonzero((found > LEAST) & (found < MOST))
    found[room[: abs(images - found.sum())]] += np.sign(images - found.sum())
    assert found.sum() == images
    return found


def pictures() -> Iterator[bytes]:
    """JPEGs without end, no two alike."""
    rng, known = np.random.default_rng(0), []
    for pixels in rng.integers(0, 256, (DIFFERENT, 16, 16, 3), dtype=np.uint8):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=75)
        known.append(stream.getvalue())
    number = 0
    while True:
        body = known[number % DIFFERENT]
        yield (
            body[:2] + b"\xff\xfe\x00\x0a" + number.to_bytes(8, "big") + body[2:]
        )  # the comment follows the first marker
        number += 1


def make(root: Path, images: int, classes: int) -> None:
    """The files and their two lists, once."""
    if (root / "test.txt").exists():
        return
    files = pictures()
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for label, number in enumerate(counts(images, classes)):
        for part, some in (("train", number), ("test", TESTED)):
            folder = root / part / f"{label:04d}"
            folder.mkdir(parents=True, exist_ok=True)
            for image in range(some):
                (folder / f"{image:04d}.jpg").write_bytes(next(files))
                lists[part].append(f"{part}/{label:04d}/{image:04d}.jpg {label}")
    for part, lines in lists.items():
        write_atomic(root / f"{part}.txt", "\n".join(lines) + "\n")


def first_step(recipe: Recipe, work: Path) -> float:
    """Seconds from the command to the end of its first step, evaluation left out."""
    run = work / f"run-{time.time_ns()}"
    write_atomic(work / "first.yaml", recipe.override("train.max_steps=1").to_yaml())
    command = [sys.executable, "-m", "glmc", "train", str(work / "first.yaml"), "--out", str(run), "--quiet"]
    subprocess.run(command, check=True)
    seconds = json.loads((run / "result.json").read_text())["seconds"]
    return float(seconds["startup"] + seconds["train"])


def inside(recipe: Recipe, wanted: np.ndarray) -> dict[str, float]:
    """Sizes of what is held, and the pause between two epochs, in this process."""
    parts = build(recipe, Screen(quiet=True))
    assert np.array_equal(parts.data.train.counts, wanted), "other counts than the files have"
    assert parts.method.classifier.weight.shape[0] == len(wanted)
    weights = class_weights(parts.counts, 1.0) * parts.counts  # as many times rarer, as many times heavier
    assert torch.allclose(weights, weights[0])
    paths = parts.data.train.images
    index = len(paths.blob) + paths.offsets.nbytes + parts.data.train.labels.nbytes
    began = time.perf_counter()
    tables = parts.loader.draw(1)
    drawn = time.perf_counter() - began
    size = sum(t.rows.nbytes + sum(v.nbytes for view in t.views for v in view.values()) for t in tables.values())
    for _ in range(2):
        began = time.perf_counter()
        next(parts.loader.parts(parts.loader.move(tables)))
        pause = time.perf_counter() - began  # of the second: the workers are there
    parts.loader.close()
    return {
        "index_mb": index / 2**20,
        "tables_mb": size / 2**20,
        "seconds_to_draw": drawn,
        "seconds_to_first_batch": pause,
    }


def rate(recipe: Recipe) -> None:
    """Print images a second, trained by all processes that torchrun has started."""
    if ranks.begin().rank:
        distributed.follow()
    else:
        parts, seconds = pace.measured(recipe)
        distributed.dismiss(parts)
        ranks.say("end")
        print(json.dumps(recipe.data.batch_size / seconds))
    ranks.end()


def several(recipe: Recipe, work: Path, processes: int) -> float:
    """Images a second of so many processes of one thread each."""
    write_atomic(work / "rate.yaml", recipe.override("train.threads=1", "data.workers=1").to_yaml())
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [*command, __file__, "--rate", str(work / "rate.yaml")],
        check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measure, print, and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--classes", type=int, default=CLASSES)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rate", type=Path, help=argparse.SUPPRESS)  # what `several` starts
    words = parser.parse_args()
    if words.rate:
        rate(load(str(words.rate)))
        return
    root = words.work / f"shape-{words.images}-{words.classes}"
    began = time.perf_counter()
    make(root, words.images, words.classes)
    found: dict[str, Any] = {"images": words.images, "classes": words.classes}
    found["seconds_to_make"] = time.perf_counter() - began
    recipe = load("inaturalist2018/ce", [*VALUES, f"data.root={root.resolve()}"])
    os.environ["GLMC_CACHE"] = str(words.work.resolve() / "cache")
    shutil.rmtree(words.work / "cache", ignore_errors=True)
    found["seconds_to_first_step"] = first_step(recipe, words.work)  # sizes of all images are read, then kept
    found["seconds_to_first_step_again"] = first_step(recipe, words.work)
    found |= inside(recipe, counts(words.images, words.classes))
    found |= {f"images_a_second_{number}": several(recipe, words.work, number) for number in (1, 2)}
    apart = recipe.override("model.batch_norm_over=rank")  # without its exchanges in every layer
    found["images_a_second_2_apart"] = several(apart, words.work, 2)
    for name, value in found.items():
        print(f"{name:28} {value:,.1f}")
    if words.out:
        environment = circumstances(runtime.environment(runtime.pick_device("auto"), "auto", ""))
        words.out.parent.mkdir(parents=True, exist_ok=True)
        command = f"python benchmarks/scale.py --images {words.images} --classes {words.classes}"
        write_atomic(words.out, json.dumps({"command": command, "environment": environment, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
