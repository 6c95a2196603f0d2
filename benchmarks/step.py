"""One training step of GLMC, published way against ours, alternating in one process.

The published step is written anew here, from its description, as plainly as it is described: images are cropped, turned
into floats and normalised one by one with PIL, four times for each position of a batch; labels become one-hot on the
host; MixUp and CutMix are done with Python numbers; two passes go through the network in float32 and NCHW memory; the
loss is read after every step. It may use every core. Before anything is timed its losses are compared with ours in
float64 on the same tensors.

Ours is the step of `glmc train`: `engine.fit` on the loader, network, optimizer and precision of a recipe.

    python benchmarks/step.py                          # resnet32, eager
    python benchmarks/step.py --case resnet32_w64 --json
    python benchmarks/step.py --way compile            # prints compile seconds and the step at which they are earned
"""

import time

BEGAN = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

CASES = {  # name -> recipe, side of the stored images, classes, batch on a CPU, batch on a GPU
    "resnet32": ("cifar100_lt/glmc_published", 32, 100, 64, 64),
    "resnet32_w64": ("cifar100_lt/glmc_published", 32, 100, 64, 64),
    "resnext50_32x4d": ("imagenet_lt/glmc_published", 256, 1000, 8, 120),
}


class Data(NamedTuple):
    """Random images with a long tail."""

    images: np.ndarray  # uint8 [N, side, side, 3]
    labels: np.ndarray  # int64 [N]
    counts: np.ndarray  # int64 [C]


def long_tailed_noise(side: int, classes: int) -> Data:
    """CIFAR-100-LT's 10,847 images at imbalance 100, or one image a class of large ones; content does not matter."""
    from glmc.data.longtail import profile_counts

    counts = profile_counts(500, classes, 100, "exponential") if side == 32 else np.ones(classes, dtype=np.int64)
    labels = np.repeat(np.arange(classes), counts)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), side, side, 3), dtype=np.uint8)
    return Data(images, labels, counts)


# ------------------------------------------------------------------------------------------------ the published way


def published_transform(operations: list[Any], mean: list[float], std: list[float]) -> Any:
    """The augmentation of a recipe as a chain of torchvision's PIL transforms."""
    from torchvision import transforms

    chain: list[Any] = []
    for operation in operations:
        name, value = (operation, None) if isinstance(operation, str) else next(iter(operation.items()))
        if name == "crop":
            chain.append(transforms.RandomCrop(32, padding=value))
        elif name == "flip":
            chain.append(transforms.RandomHorizontalFlip())
        elif name == "resized_crop":
            chain.append(transforms.RandomResizedCrop(value["size"]))
        elif name == "color_jitter":
            chain.append(transforms.ColorJitter(value["brightness"], value["contrast"], value["saturation"]))
        elif name == "grayscale":
            chain.append(transforms.RandomGrayscale(value))
        elif name == "blur":
            chain.append(transforms.RandomApply([transforms.GaussianBlur(5, value["sigma"])], value["p"]))
    return transforms.Compose([*chain, transforms.ToTensor(), transforms.Normalize(mean, std)])


class Workers:
    """Processes that hold the images as PIL's and augment them one by one."""

    def __init__(self, data: Data, transform: Any, processes: int) -> None:
        import multiprocessing

        self.processes = processes
        pictures = [Image.fromarray(image) for image in data.images]
        self.pool = multiprocessing.get_context("fork").Pool(processes, _adopt, (pictures, transform))

    def views(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Two augmentations of each row: float32 [B, 3, H, W] each."""
        parts = self.pool.map(_augment, np.array_split(np.repeat(rows, 2), self.processes))
        pixels = torch.from_numpy(np.concatenate(parts))
        return pixels[0::2].contiguous(), pixels[1::2].contiguous()


_held: tuple[list[Image.Image], Any] = ([], None)


def _adopt(pictures: list[Image.Image], transform: Any) -> None:
    global _held
    _held = pictures, transform
    torch.set_num_threads(1)


def _augment(rows: np.ndarray) -> np.ndarray:
    pictures, transform = _held
    return np.stack([transform(pictures[row]).numpy() for row in rows])


class Published(torch.nn.Module):
    """Network, four heads and loss of the published step."""

    def __init__(self, backbone: torch.nn.Module, features: int, counts: np.ndarray, gamma: float) -> None:
        super().__init__()
        embedding = 128 if features <= 256 else 256
        self.backbone, self.gamma, self.counts = backbone, gamma, counts
        self.fc, self.fc_cb = torch.nn.Linear(features, len(counts)), torch.nn.Linear(features, len(counts))
        self.projection, self.prediction = torch.nn.Linear(features, embedding), torch.nn.Linear(embedding, embedding)

    def losses(
        self, first: tuple[Tensor, Tensor, Tensor], second: tuple[Tensor, Tensor, Tensor], lam: float,
        centre: tuple[float, float], progress: float, exponent: float,
    ) -> dict[str, Tensor]:  # fmt: skip
        """The three weighted terms; a stream is (view 1, view 2, labels), all still on the host."""
        device = self.fc.weight.device
        one_hot = [torch.zeros(len(s[2]), len(self.counts)).scatter_(1, s[2][:, None], 1.0) for s in (first, second)]
        mixed = lam * first[0] + (1 - lam) * second[0]
        cut, (high, wide) = first[1].clone(), first[1].shape[2:]
        half = [int(np.ceil(side * np.sqrt(1 - lam))) // 2 for side in (high, wide)]
        middle = [int(c * side) for c, side in zip(centre, (high, wide), strict=True)]
        top, bottom = np.clip([middle[0] - half[0], middle[0] + half[0]], 0, high)
        left, right = np.clip([middle[1] - half[1], middle[1] + half[1]], 0, wide)
        cut[:, :, top:bottom, left:right] = second[1][:, :, top:bottom, left:right]
        target = (lam * one_hot[0] + (1 - lam) * one_hot[1]).to(device, self.fc.weight.dtype)
        weight = torch.from_numpy(self.counts.astype(np.float64) ** -exponent)
        weight = (weight / weight.mean()).to(device, self.fc.weight.dtype)

        features = [self.backbone(mixed.to(device)), self.backbone(cut.to(device))]
        z = [self.projection(f) for f in features]
        p = [self.prediction(each) for each in z]
        alpha = 1 - progress**2
        plain = sum(-(target * self.fc(f).log_softmax(1)).sum(1).mean() for f in features)
        rebalanced = sum(-(weight * target * self.fc_cb(f).log_softmax(1)).sum(1).mean() for f in features)
        agreement = sum(F.cosine_similarity(a, b.detach()).mean() for a, b in ((p[0], z[1]), (p[1], z[0])))
        return {
            "conventional": alpha * plain,
            "rebalanced": (1 - alpha) * rebalanced,
            "consistency": -self.gamma * agreement,
        }  # type: ignore[dict-item]


def published_steps(model: Published, workers: Workers, data: Data, batch: int, recipe: Any) -> Iterator[float]:
    """Train; yields the loss of each step."""
    optimizer = torch.optim.SGD(
        model.parameters(), lr=recipe.optim.lr, momentum=recipe.optim.momentum, weight_decay=recipe.optim.weight_decay
    )
    rng = np.random.default_rng(1)
    while True:
        streams = []
        for _ in range(2):
            rows = rng.choice(len(data.labels), batch, replace=False)
            streams.append((*workers.views(rows), torch.from_numpy(data.labels[rows])))
        terms = model.losses(*streams, rng.random(), tuple(rng.random(2)), 0.5, recipe.loss.params["exponent"])
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


# ------------------------------------------------------------------------------------------------------------- ours


class Ours(NamedTuple):
    """The objects of a run."""

    recipe: Any
    method: Any
    loader: Any
    optimizer: Any


def ours(
    case: str, data: Data, batch: int, device: torch.device, precision: str | None = None, *, seed: int = 0
) -> Ours:
    """What `glmc train` builds for the recipe of a case, on other images."""
    from glmc import recipe
    from glmc.batches.resident import ResidentLoader
    from glmc.runs import trained
    from glmc.runtime import pick_precision
    from glmc.train import build

    wanted = recipe.load(CASES[case][0], [f"model.name={case}", f"data.batch_size={batch}", f"train.seed={seed}"])
    settled = wanted.settle(
        {"size": data.images.shape[1], "channels": 3},
        {"precision": precision or pick_precision("auto", device, print)},
    )
    method = trained.build_method(settled, torch.from_numpy(data.counts), device)
    loader = ResidentLoader(
        data.images,
        data.labels,
        trained.build_views(settled, method.views, device),
        method.streams,
        batch_size=batch,
        seed=seed,
        device=device,
    )
    return Ours(settled, method, loader, build.build_optimizer(method, settled))


def our_steps(parts: Ours, way: str) -> Iterator[tuple[bool, Any]]:
    """The steps of `engine.fit`, carried out in that way; nothing falls back to another one here."""
    from glmc.train.engine import State, fit, state_of, training_step
    from glmc.train.execution import Graphed

    method, loader, optimizer = parts.method, parts.loader, parts.optimizer
    precision = parts.recipe.train.precision
    step: Any = training_step(method, loader, optimizer, precision=precision, compiled=way.endswith("compile"))
    if way.startswith("graph"):
        step = Graphed(step, lambda: state_of(method, optimizer, None))
    return fit(method, loader, optimizer, step, State(), epochs=10_000, factors=[1.0] * 10_000)


# ----------------------------------------------------------------------------------------------------- the comparison


def refuse_other_losses(case: str, data: Data) -> float:
    """Both losses on the same tensors and weights in float64; returns the largest relative difference."""
    from glmc.step import Batch, Step

    parts = ours(case, data, 4, torch.device("cpu"), "float32")
    method = parts.method.double().train()
    features = method.backbone.out_dim
    reference = Published(method.backbone, features, data.counts, parts.recipe.method.params["contrast_weight"])
    for name, layer in (
        ("fc", method.classifier), ("fc_cb", method.rebalanced), ("projection", method.projector),
        ("prediction", method.predictor),
    ):  # fmt: skip
        setattr(reference, name, layer)
    rng, side = np.random.default_rng(2), parts.loader.views[0].side(data.images.shape[1])
    streams = [
        (*(torch.from_numpy(rng.normal(size=(4, 3, side, side))) for _ in range(2)), torch.from_numpy(labels))
        for labels in rng.integers(0, len(data.counts), (2, 4))
    ]
    lam, centre, progress = 0.37, (0.3, 0.8), 0.6
    batches = [Batch(views=stream[:2], labels=stream[2], rows=stream[2]) for stream in streams]
    draws = {"lam": torch.tensor(lam).double(), "centre": torch.tensor(centre).double()}
    step = Step(dict(zip(("instance", "rebalanced"), batches, strict=True)), draws, torch.tensor(progress).double())
    mine = method(step)
    theirs = reference.losses(*streams, draws["lam"].item(), centre, progress, parts.recipe.loss.params["exponent"])
    worst = max(abs((mine[name] - theirs[name]) / theirs[name]).item() for name in theirs)
    if worst > 1e-6:  # class weights are kept in float32
        raise SystemExit(f"the two losses differ by {worst:.1e}: there is nothing to compare")
    return worst


class Limits(NamedTuple):
    """What the machine needs at least for a step: counted work over measured rates."""

    flop: float  # of a step
    bytes: float  # every convolution's output written once and read five times, in bfloat16
    flop_ms: float
    byte_ms: float


def limits(parts: Ours) -> Limits:
    """Counted on the network; rates of a large product in the step's precision and of a large copy, here and now."""
    from torch.utils.flop_counter import FlopCounterMode

    device, views = parts.loader.device, len(parts.loader.views)
    side = parts.loader.views[0].side(int(parts.recipe.data.size))
    backbone, outputs = parts.method.backbone, []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output.numel()))
        for module in backbone.modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    backbone.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(torch.zeros(1, 3, side, side, device=device))
    for hook in hooks:
        hook.remove()
    flop = 3.0 * counter.get_total_flops() * views * parts.loader.batch_size
    moved = 6.0 * 2 * sum(outputs) * views * parts.loader.batch_size
    number = 2048 if device.type == "cpu" else 8192
    dtype = torch.bfloat16 if parts.recipe.train.precision == "bfloat16" else torch.float32
    square = torch.randn(number, number, device=device).to(dtype)
    line = torch.zeros(2**26, device=device)
    product, copy = fastest(lambda: square @ square, device), fastest(lambda: line.clone(), device)
    return Limits(
        flop, moved, 1e3 * flop * product / (2 * number**3), 1e3 * moved * copy / (2 * line.numel() * line.itemsize)
    )


def fastest(work: Any, device: torch.device) -> float:
    """The least of several times in seconds."""
    times = []
    for _ in range(8):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)


def timed(steps: Iterator[Any], number: int, device: torch.device) -> float:
    """Milliseconds per step."""
    began = time.perf_counter()
    for _ in range(number):
        next(steps)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - began) / number


def peak_mb(device: torch.device) -> float:
    """The most memory this process has had (on a GPU: of the device's), in MB of 10^6 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def compare(case: str, way: str, rounds: int, steps: int) -> dict[str, Any]:
    """Time both in turn; the facts as they are printed."""
    from glmc.models import build_backbone
    from glmc.runtime import environment, pick_device

    device = pick_device("auto")
    _, side, classes, on_cpu, on_gpu = CASES[case]
    batch = on_cpu if device.type == "cpu" else on_gpu
    data = long_tailed_noise(side, classes)
    parts = ours(case, data, batch, device)
    recipe = parts.recipe
    transform = published_transform(recipe.views["train"], recipe.data.mean, recipe.data.std)
    mine = our_steps(parts, way)
    before = time.perf_counter()
    next(mine)
    first_step_s, build_s = time.perf_counter() - BEGAN, time.perf_counter() - before
    timed(mine, 2, device)  # allocators, and whatever else happens only at first
    peak = peak_mb(device)

    workers = Workers(data, transform, os.cpu_count() or 1)
    backbone = build_backbone(case, batch_norm="joint")
    gamma = recipe.method.params["contrast_weight"]
    reference = Published(backbone, backbone.out_dim, data.counts, gamma).to(device).train()
    theirs = published_steps(reference, workers, data, batch, recipe)
    difference = refuse_other_losses(case, data)
    floor = limits(ours(case, data, batch, device))
    written = our_steps(ours(case, data, batch, device), "eager")  # what the other ways must win against
    timed(theirs, 2, device)
    timed(written, 2, device)
    times = [[timed(each, steps, device) for each in (mine, theirs, written)] for _ in range(rounds)]
    workers.pool.terminate()

    ours_ms, reference_ms, eager_ms = (statistics.median(column) for column in zip(*times, strict=True))
    ratios = [row[1] / row[0] for row in times]
    facts: dict[str, Any] = {
        "case": case,
        "way": way,
        "batch": [batch, len(parts.loader.views)],
        "parameters": sum(p.numel() for p in parts.method.parameters()),
        "ours_ms": ours_ms,
        "reference_ms": reference_ms,
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "images_per_second": {"ours": 1e3 * batch / ours_ms, "reference": 1e3 * batch / reference_ms},
        "peak_mb": peak,
        "first_step_s": first_step_s,
        "loss_difference": difference,
        "gflop": floor.flop / 1e9,
        "flop_floor_ms": floor.flop_ms,
        "byte_floor_ms": floor.byte_ms,
        "share_of_floor": max(floor.flop_ms, floor.byte_ms) / ours_ms,
        "rounds": times,
        "environment": environment(device, recipe.train.precision, " ".join(["python", *sys.argv])),
    }
    if way != "eager":
        won = eager_ms - ours_ms
        facts |= {"eager_ms": eager_ms, "build_s": build_s, "break_even_step": 1e3 * build_s / won if won > 0 else None}
    return facts


def main() -> None:
    """Read the command line, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="resnet32")
    parser.add_argument(
        "--way", choices=["eager", "compile", "graph", "graph_compile"], help="default: a graph on a GPU, else eager"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, help="of a round; default: 10, large cases 2")
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    words = parser.parse_args()
    way = words.way or ("graph" if torch.cuda.is_available() else "eager")
    steps = words.steps or (10 if words.case == "resnet32" or torch.cuda.is_available() else 2)
    facts = compare(words.case, way, words.rounds, steps)
    if words.json:
        print(json.dumps(facts))
        return
    ratio, batch = facts["ratio"], facts["batch"]
    print(
        f"{words.case}, {facts['parameters'] / 1e6:.2f} M parameters with heads, batch {batch[0]} x {batch[1]}, {way}"
    )
    print(f"  losses agree to {facts['loss_difference']:.0e} in float64")
    for name in ("ours", "reference"):
        print(f"  {name:9} {facts[name + '_ms']:8.1f} ms/step  {facts['images_per_second'][name]:8.0f} images/s")
    print(f"  ratio     {ratio['median']:.2f} (min {ratio['min']:.2f}, max {ratio['max']:.2f})")
    print(f"  first step {facts['first_step_s']:.1f} s after the start, peak memory {facts['peak_mb']:.0f} MB")
    print(
        f"  {facts['gflop']:.1f} GFLOP a step: floor {facts['flop_floor_ms']:.0f} ms; bytes: floor "
        f"{facts['byte_floor_ms']:.0f} ms; {100 * facts['share_of_floor']:.0f} % of the machine's limit"
    )
    if way != "eager":
        earned = facts["break_even_step"]
        when = "never earned back" if earned is None else f"earned back at step {earned:.0f}"
        print(f"  eager {facts['eager_ms']:.1f} ms/step; {facts['build_s']:.0f} s to build, {when}")


if __name__ == "__main__":
    main()
