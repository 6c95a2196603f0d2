"""Several processes against one: the same gradients, weights and confusion matrix, killed and resumed with others."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import multiprocessing
from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, parse_args

from faults.small_runs import forked, wait_until
from glmc import __main__, models, ranks, recipe
from glmc.batches.augment import View
from glmc.batches.resident import ResidentLoader
from glmc.errors import UserError
from glmc.models import build_backbone
from glmc.models.cifar_resnet import CifarResNet
from glmc.models.heads import start_heads
from glmc.recipe import choice
from glmc.runs.tally import Tally
from glmc.train import run as training
from glmc.train.engine import Inputs, draw, move, training_step

COUNTS = torch.tensor([10, 5, 4, 2])
IMAGES, BATCH, EPOCHS = 21, 9, 3  # the last batch has 3 images: a fourth process has none
MAIN = ("glmc", "contrastive", "experts", "BatchNorm by rank")  # tried with 2, 3 and 4 processes; all cases with 3
CASES = {
    "glmc": {"method": {"name": "glmc"}, "loss": {"name": "class_weighted"}, "mixture": {"name": "mixup_cutmix"}},
    "partners of other ranks": {
        "method": {"name": "supervised"},
        "loss": {"name": "deferred", "start": 0.0},  # divides by the weights of the whole batch
        "mixture": {"name": "cutmix", "per_image": True},
    },
    "contrastive": {
        "method": {"name": "paco", "queue": 16},
        "loss": {"name": "balanced_softmax"},
        "mixture": {"name": "none"},
    },
    "joint BatchNorm": {
        "backbone": {"batch_norm": "joint"},
        "method": {"name": "bcl"},
        "loss": {"name": "logit_adjusted"},
        "mixture": {"name": "none"},
    },
    "two passes and a step uphill": {
        "backbone": {"batch_norm": "two_pass"},
        "method": {"name": "glmc"},
        "loss": {"name": "balanced_softmax"},
        "mixture": {"name": "mixup_cutmix", "sampling": 1.0},
        "step": {"sharpness": {"rho": 0.05, "adaptive": False}},
    },
    "BatchNorm by rank": {
        "backbone": {"batch_norm_over": "rank"},
        "method": {"name": "supervised"},
        "loss": {"name": "cross_entropy"},
        "mixture": {"name": "none"},
    },
    "branches": {
        "backbone": {"experts": 2, "experts_from": "last"},
        "method": {"name": "bbn"},
        "loss": {"name": "cross_entropy"},
        "mixture": {"name": "none"},
    },
    "experts": {
        "backbone": {"experts": 3, "experts_from": "layer3"},
        "method": {"name": "experts", "taus": [0.0, 1.0, 2.0]},
        "loss": {"name": "cross_entropy"},
        "mixture": {"name": "none"},
    },
}


def trained(case):
    """Losses, gradients of the last step and weights after three epochs in float64, of a network of three blocks."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "CifarResNet", lambda depth, width, channels: CifarResNet(8, 4, channels))
        backbone = build_backbone("resnet20", **CASES[case].get("backbone", {}))
    loss, mixture = (choice.build(name, CASES[case][name], COUNTS) for name in ("loss", "mixture"))
    method = choice.build("method", CASES[case]["method"], COUNTS, (backbone, COUNTS, loss, mixture))
    start_heads(method, "he_uniform")
    method.double().train()
    views = [View([{"crop": 2}, "flip"], [0.5] * 3, [0.25] * 3, torch.device("cpu")) for _ in method.views]
    for view in views:
        view.scale, view.shift = view.scale.double(), view.shift.double()
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 8, 8, 3), dtype=np.uint8)
    labels = np.repeat(np.arange(4), COUNTS.numpy())
    cpu = torch.device("cpu")
    loader = ResidentLoader(pixels, labels, views, method.streams, batch_size=BATCH, seed=1, device=cpu)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.05, momentum=0.9)
    step = training_step(method, loader, optimizer, precision="float32", **CASES[case].get("step", {}))
    losses = []
    for epoch in range(EPOCHS):
        if epoch == 0:
            method.before_epoch(0, EPOCHS, lambda view: iter(()))
        draws = move(draw(method, loader, epoch, EPOCHS), cpu)
        draws = {name: table.double() if table.is_floating_point() else table for name, table in draws.items()}
        for number, parts in enumerate(loader.parts(loader.epoch(epoch), own=ranks.here().own)):
            row = {name: table[number] for name, table in draws.items()}
            terms = step(Inputs(parts, row, torch.tensor(epoch / EPOCHS), torch.zeros(0, dtype=torch.uint8)))
            losses.append(torch.stack(list(terms.values())).detach())
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return {"losses": torch.stack(losses), "gradients": gradients, "weights": method.state_dict()}


def counted():
    """Confusion matrix and scores of 23 predictions, each rank's its own."""
    rng = torch.Generator().manual_seed(0)
    logits, labels = torch.rand(23, 7, generator=rng), torch.randint(7, (23,), generator=rng)
    tally, own = Tally(7, torch.device("cpu")), ranks.here().own
    tally.update(logits[own], labels[own])
    if ranks.here().world > 1:
        tally.gather(23)
    return tally.compute()


def refuse():
    """A rank that cannot go on."""
    raise UserError("no images here")


def said_by(function):
    """The sentence of an error."""
    with pytest.raises(UserError) as caught:
        function()
    return str(caught.value)


def worker(rank, world, place):
    """One of several processes; leaves what it has trained."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    dist.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=world)
    ranks._HERE[0] = ranks.Ranks(rank, world)
    found = {case: trained(case) for case in (CASES if world == 3 else MAIN)}
    found["in order"] = ranks.in_order(torch.arange(10)[ranks.here().own], 10)
    found["counted"] = counted()
    found["refused"] = said_by(lambda: ranks.agreed(refuse if rank == 1 else int))
    torch.save(found, Path(place) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def alone():
    torch.set_default_dtype(torch.float64)
    try:
        return {case: trained(case) for case in CASES} | {"counted": counted()}
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_several_processes_train_as_one_does(alone, tmp_path, world):
    # A server imports PyTorch once, and forks all processes.
    forked = multiprocessing.get_context("forkserver")
    forked.set_forkserver_preload(["glmc.train.engine", "glmc.runs.tally", "torch._dynamo"])
    multiprocessing.start_processes(worker, (world, str(tmp_path)), world, start_method="forkserver")
    first, last = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, world - 1))
    torch.testing.assert_close(*(found.pop("BatchNorm by rank")["weights"] for found in (first, last)))
    for found in (first, last):
        assert found.pop("in order").tolist() == list(range(10))
        assert found.pop("refused") == f"rank 1 on {socket.gethostname()}: no images here"
        (confusion, scores), (wanted, others) = found.pop("counted"), alone["counted"]
        assert (confusion == wanted).all()
        assert scores == pytest.approx(others)
        for case, results in found.items():
            for what in ("losses", "gradients", "weights"):
                torch.testing.assert_close(
                    results[what], alone[case][what], atol=1e-10, rtol=1e-8, msg=f"{case} {what}"
                )


# --- whole runs by torchrun

TINY = """
data:   {name: digits, imbalance: 4, n_max: 36, batch_size: 32}
views:  {train: [{crop: 1}], test: []}
model:  {name: resnet20}
method: {name: glmc}
optim:  {name: sgd, lr: 0.001, weight_decay: 5e-4}
train:  {epochs: 3, precision: float32, device: cpu, save_minutes: 1.0e-6}
eval:   {batch_size: 250, flip_tta: false}
"""


def ranked(place, *words):
    """The command of one rank."""
    (place / f"rank-{os.environ['RANK']}").write_text(str(os.getpid()))
    sys.argv = ["glmc", *map(str, words)]
    __main__.main()


def torchrun(place, world, *words, restarts=0):
    """The command in several processes of torchrun, which are forked: everything is imported already."""
    own = ["--nproc-per-node", str(world), "--max-restarts", str(restarts), "--monitor-interval", "0.1"]
    own += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]  # as it chooses itself
    own += ["--start-method", "fork", "--log-dir", str(place / "logs"), "--redirects", "3", "glmc"]

    def work():
        os.chdir(place)
        config, _, _ = config_from_args(parse_args(own))
        elastic_launch(config, ranked)(place, *words)
        return 0

    return forked(work, place / "errors")


def ended(process, place):
    """The exit code of torchrun, and what it and its processes have said."""
    wait_until(lambda: os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT), 200)
    code = process.wait()
    logs = [file.read_text() for file in sorted((place / "logs").rglob("std*.log"))]
    return code, "".join([*logs, process.said()])


def signalled(place, run, number, after=4, but=None):
    """Send rank 1, in another process than `but`, a signal after a checkpoint of step `after`; returns the process."""
    rank = place / "rank-1"
    wait_until(lambda: latest(run) >= after and rank.read_text() not in ("", but))
    os.kill(int(rank.read_text()), number)
    return rank.read_text()


def latest(run):
    """The step of the last checkpoint, 0 if there is none."""
    return max((int(path.name[5:]) for path in run.glob("checkpoints/step-*")), default=0)


def test_a_run_is_killed_stopped_and_resumed_by_another_number_of_processes(tmp_path, no_report):
    """Two processes, of which the second is killed, started again and then sent a signal; three go on to the end."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    run, whole = tmp_path / "run", tmp_path / "whole"
    process = torchrun(tmp_path, 2, "train", "tiny.yaml", "--out", run, restarts=1)
    first = signalled(tmp_path, run, signal.SIGKILL)
    signalled(tmp_path, run, signal.SIGTERM, after=latest(run) + 4, but=first)
    _, said = ended(process, tmp_path)
    assert "rank 1 of 2 ended" in said
    assert "stopped by SIGTERM, state saved" in said
    assert "going on from epoch" in (run / "log.txt").read_text()
    assert not (run / "result.json").exists()
    process = torchrun(tmp_path, 3, "train", "--resume", run)
    code, said = ended(process, tmp_path)
    assert code == 0, said
    training.train(recipe.load(str(tmp_path / "tiny.yaml")), whole, command="glmc", quiet=True, since=0.0)
    found, wanted = (json.loads((each / "result.json").read_text()) for each in (run, whole))
    assert found["steps"] == wanted["steps"]
    assert found["last"]["nll"] == pytest.approx(wanted["last"]["nll"], rel=2e-2)  # float32, and a wild beginning


@pytest.fixture
def photos(tmp_path):
    """Three classes of 9, 6 and 3 images to train on, two each to test."""
    rng = np.random.default_rng(0)
    for part, counts in (("train", (9, 6, 3)), ("test", (2, 2, 2))):
        for label, number in enumerate(counts):
            folder = tmp_path / "photos" / part / "abc"[label]
            folder.mkdir(parents=True)
            for image in range(number):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{image}.jpg")
    return tmp_path / "photos"


STREAMED = ["data.root=photos", "data.loader=streaming", "data.size=32", "data.batch_size=6"]
STREAMED += ["model.name=resnet20", "train.epochs=1", "train.device=cpu"]


def test_two_seeds_in_turn_each_with_its_second_stage(tmp_path, photos, no_report):
    words = ["folder/crt", "then=crt train.epochs=2", "--seeds", "0,1", "--out", "runs", *STREAMED]
    code, said = ended(torchrun(tmp_path, 2, "train", *words), tmp_path)
    assert code == 0, said
    summary = json.loads((tmp_path / "runs" / "summary.json").read_text())
    assert (summary["epochs"], summary["last"]["top1"]["n"]) == (2, 2)  # of the second stage


def test_a_damaged_image_of_the_second_process_is_named_and_ends_both(tmp_path, photos):
    """From a shell, as docs/scale.md has it."""
    for image in (photos / "train").rglob("*.jpg"):
        image.write_bytes(image.read_bytes()[:300])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "glmc", "train"]
    done = subprocess.run(
        [*command, "folder/ce", "--out", "run", *STREAMED],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode != 0
    assert "cannot be read" in done.stderr
    assert "defect of glmc" not in done.stderr
