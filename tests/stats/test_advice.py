"""Which recipe one's own photographs get, with and without a hub; the hub is a server on this machine."""

import http.server
import json
import shlex
import threading
import time

import pytest
import torch
from safetensors.torch import save_file
from test_stats import fill, save

from glmc import recipe
from glmc.cli.training import train
from glmc.data.split import Paths
from glmc.errors import UserError
from glmc.models import build_backbone, weights
from glmc.screen import Screen
from glmc.stats import advice, facts, files, find
from glmc.train import bench


def advised(folder, *assignments):
    """What `glmc stats` advises."""
    settings = find.wanted(str(folder), assignments)
    known = facts.collect(str(folder), settings, find.scan(settings.data), Screen(quiet=True).bar)
    return advice.advise(known, assignments)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A server that answers whatever it is asked for, in the place of the hub; nothing in the cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


def photographs(folder, counts, size):
    """Training and test images of each class."""
    for part, share in (("train", 1), ("test", 0.1)):
        for name, count in counts.items():
            for i in range(max(1, int(count * share))):
                save(folder / part / name / f"{i}.jpg", size)
    return folder


EVEN, LONG, SCARCE = {"a": 30, "b": 30}, {"a": 120, "b": 30}, {"a": 30, "b": 3, "c": 3}

SHIFTED = "views.train=[{crop: 4}, flip, {randaugment: {n: 1, m: 9, growing: [15, 40]}}]"


@pytest.fixture
def machine(monkeypatch):
    """(weights there?, "cpu" or "cuda") -> the machine is like that."""

    def like(weights_there, device):
        obstacle = None if weights_there else "no answer"
        monkeypatch.setattr("glmc.models.weights.obstacle", lambda name: obstacle)
        monkeypatch.setattr("glmc.runtime.pick_device", lambda name: torch.device(device))

    return like


@pytest.mark.parametrize(
    ("counts", "size", "at_hand", "device", "command", "reasons"),
    [
        (LONG, (32, 32), True, "cpu", "glmc_plus model.name=resnet32 data.size=32", ["suit resnet32"]),
        (LONG, (64, 80), True, "cuda", "glmc_plus model.name=resnet32", ["of about 64 x 80 pixels becomes 64 x"]),
        (EVEN, (32, 32), True, "cpu", "ce model.name=resnet32 data.size=32", ["no long tail"]),
        (LONG, (100, 80), True, "cuda", "lift", ["few weights learn", "becomes 256 x 256"]),
        (EVEN, (100, 80), True, "cuda", "finetune", ["suit a pretrained network", "becomes 256 x 256"]),
        (LONG, (100, 80), True, "cpu", "linear", ["without a GPU"]),
        (SCARCE, (32, 32), True, "cuda", "linear", ["at most 3 images"]),
        (LONG, (100, 80), False, "cpu", "glmc_plus", ["model.pretrained=FILE", "becomes 64 x 64", "data.size=N"]),
        (LONG, (100, 80), False, "cuda", "glmc_plus data.size=128", ["becomes 128 x 128"]),
        (EVEN, (100, 80), False, "cpu", "ce", ["no answer"]),
        (SCARCE, (32, 32), False, "cpu", "glmc_plus model.name=resnet32 data.size=32", ["no answer"]),
    ],
)
def test_the_rule(machine, tmp_path, counts, size, at_hand, device, command, reasons):
    machine(at_hand, device)
    said = advised(photographs(tmp_path, counts, size))
    name, *extra = command.split()
    assert said.command.startswith(" ".join([f"glmc train folder/{name} data.root={tmp_path}", *extra]))
    assert [reason for reason in reasons if not any(reason in sentence for sentence in said.why)] == []


@pytest.mark.parametrize(
    ("network", "device", "name", "extra"),
    [
        ("resnet32", "cpu", "glmc_plus", ("data.size=32", SHIFTED)),
        ("test_vit", "cuda", "lift", ("data.size=183",)),
        ("resnet18", "cuda", "finetune", ("data.size=37",)),
        ("resnet18", "cpu", "linear", ("data.size=37",)),
    ],
)
@pytest.mark.parametrize("says_so", [True, False])
def test_weights_of_ones_own_are_used(machine, tmp_path, network, device, name, extra, says_so):
    """Those that `glmc export` wrote say which network it is, and for images of which size."""
    machine(False, device)
    found = find.scan(find.wanted(str(photographs(tmp_path, LONG, (32, 32)))).data)
    images = {"mean": [0.5], "std": [0.2], "size": 160 if network == "test_vit" else 32}
    header = {"glmc": json.dumps({"network": network, "preprocessing": images})} if says_so else {}
    save_file({}, tmp_path / "mine.safetensors", header)
    given = [] if says_so else [f"model.name={network}"]
    chosen = advice.choose(found, [*given, f"model.pretrained={tmp_path}/mine.safetensors"])
    if says_so:
        extra = (f"model.name={network}", *extra)
    elif name != "glmc_plus":
        extra = ()
    assert (chosen.recipe, chosen.overrides) == (f"folder/{name}", extra)


def test_only_the_system_that_has_it_is_advised_its_augmentation(machine, tmp_path):
    machine(False, "cpu")
    found = find.scan(find.wanted(str(photographs(tmp_path, LONG, (32, 32)))).data)
    chosen = advice.choose(found, [])
    assert chosen.overrides[-1] == bench.own("glmc_plus", chosen)[-1] == SHIFTED
    assert bench.own("vs", chosen) == (*chosen.overrides[:-1], "views.train=[{crop: 4}, flip]")


@pytest.mark.parametrize(("counts", "size"), [(EVEN, (32, 32)), (LONG, (100, 80))])
def test_stats_advises_what_train_takes(machine, monkeypatch, tmp_path, capsys, counts, size):
    machine(False, "cpu")
    trained = []
    monkeypatch.setattr("glmc.train.run.train", lambda wanted, out, **options: trained.append(wanted))
    said = advised(photographs(tmp_path, counts, size), "data.test_fraction=0.5")
    train([str(tmp_path), "data.test_fraction=0.5"])
    _, _, name, *overrides = shlex.split(said.command)
    assert trained == [recipe.load(name, overrides)]
    assert capsys.readouterr().err.endswith(f": {'; '.join(said.why)}\n")


def test_a_list_is_enough(machine, monkeypatch, tmp_path):
    machine(False, "cpu")
    trained = []
    monkeypatch.setattr("glmc.train.run.train", lambda wanted, out, **options: trained.append(wanted))
    folder = photographs(tmp_path / "photos", LONG, (32, 32))
    lines = [f"{path.relative_to(folder)},{path.parent.name}" for path in sorted(folder.rglob("train/*/*.jpg"))]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]))
    train([str(tmp_path / "list.csv"), f"data.root={folder}"])
    (wanted,) = trained
    assert (wanted.name, wanted.data.name, wanted.data.root) == ("folder/glmc_plus", "list", str(folder))


def test_what_was_given_wins_over_the_advice(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr("glmc.train.run.train", lambda wanted, out, **options: trained.append(wanted))
    train(
        [f"data.root={photographs(tmp_path, LONG, (32, 32))}", "model.name=resnet20", "views.test=[{center_crop: 28}]"]
    )
    (wanted,) = trained
    assert (wanted.model.name, wanted.data.size) == ("resnet20", 32)
    assert (wanted.views["train"][:2], wanted.views["test"]) == ([{"crop": 4}, "flip"], [{"center_crop": 28}])


def test_the_usual_size_comes_from_what_can_be_read(tmp_path):
    save(tmp_path / "whole.jpg", (40, 30))
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    assert files.usual_size(Paths.from_list(tmp_path, ["whole.jpg", "broken.jpg", "gone.jpg"])) == (40, 30)
    assert files.usual_size(Paths.from_list(tmp_path, ["broken.jpg"])) == (0, 0)


def test_the_command_repeats_what_was_said_of_the_data(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos = fill(tmp_path / "photos", cat=2, dog=2)
    (photos / "a b.txt").write_text("cat/0.jpg 0\ncat/1.jpg 0\ndog/0.jpg 1\ndog/1.jpg 1\n")
    said = advised("photos/a b.txt", "data.test_fraction=0.5")
    assert said.command.startswith(
        "glmc train folder/linear data.root=photos data.name=list 'data.train_list=photos/a b.txt' "
        "data.test_fraction=0.5"
    )


def test_offline_by_wish(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert weights.no_hub() == "HF_HUB_OFFLINE is set"


def test_weights_that_cannot_be_had_are_said_at_once(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(UserError, match=r"model.pretrained: the weights of resnet18 cannot be had .*=FILE"):
        build_backbone("resnet18", pretrained=True)
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    "name",
    ["folder/finetune", "folder/linear", "folder/glmc_plus", "folder/logit_adjusted", "folder/glmc", "folder/ce"],
)
def test_recipes_for_photographs_take_a_folder(name):
    wanted = recipe.load(name, ["data.root=photos"])
    assert (wanted.data.name, wanted.data.imbalance) == ("folder", None)
    assert wanted.data.size is not None


def test_a_recipe_wins_over_a_folder_of_its_name_which_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trained = []
    monkeypatch.setattr("glmc.train.run.train", lambda wanted, out, **options: trained.append(wanted.name))
    photographs(tmp_path / "folder/ce", EVEN, (32, 32))
    train(["folder/ce"])
    assert "write ./folder/ce" in capsys.readouterr().err
    train(["./folder/ce"])
    assert "data.root=./folder/ce" in capsys.readouterr().err
