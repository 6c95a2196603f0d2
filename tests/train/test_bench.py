"""Which system suits one's own images: equal seconds, held-out images, and no look at the test images."""

import itertools
import json
import shlex
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from glmc import report
from glmc.errors import UserError
from glmc.report import benched, compare
from glmc.report.entries import Entry
from glmc.report.significance import Gap
from glmc.train import bench, pace, run

OPENED = []
WATCHED = []  # folders; an audit hook cannot be taken off again
sys.addaudithook(lambda event, words: OPENED.append(str(words[0])) if WATCHED and event == "open" else None)
SMALL = ["model.name=resnet20", "data.size=8", "views.train=[flip]"]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Three classes that differ in brightness; test images that nothing could decode."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLMC_CACHE", str(tmp_path / "cache"))
    ticks = itertools.count()  # a hundredth of a second whenever somebody looks: the machine may be as slow as it likes
    clock = SimpleNamespace(perf_counter=lambda: next(ticks) / 100, monotonic=lambda: next(ticks) / 100)
    for module in (bench, pace, run):
        monkeypatch.setattr(module, "time", clock)
    noise = np.random.Generator(np.random.PCG64(0))
    for level, (name, number) in enumerate({"ash": 60, "elm": 30, "oak": 6}.items()):
        for part in ("train", "test"):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
        for n in range(number):
            pixels = noise.integers(60 * level, 60 * level + 100, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / "train" / name / f"{n}.png")
        (tmp_path / "photos" / "test" / name / "0.png").write_text("no image")
    return tmp_path / "photos"


def call(photos, *words, systems=("ce", "drw"), minutes=0.05, out=None):
    root = () if "data.root=nowhere" in words else (f"data.root={photos}",)
    given = [*root, *SMALL, *words]
    return bench.bench(given, systems, minutes, out, quiet=True, since=bench.time.perf_counter())


def test_it_ends_in_time_with_a_winner_goes_on_where_it_stopped_and_opens_no_test_image(photos, monkeypatch):
    monkeypatch.setattr(report, "write", lambda folder: None)
    monkeypatch.setattr(bench, "CLOSING", 0.3)
    WATCHED.append(photos)
    target = call(photos)
    WATCHED.clear()
    assert any(str(photos / "train") in file for file in OPENED)
    assert not any(str(photos / "test") in file for file in OPENED)
    assert str(target) == "runs/bench-1"

    facts = json.loads((target / "bench.json").read_text())
    assert facts["spent"] < 1.1 * 3
    found = facts["outcome"]
    first, second = found["systems"]
    assert {first["system"], second["system"]} == {"ce", "drw"}
    assert first["balanced"] >= second["balanced"]
    assert found["lead"] == pytest.approx(first["balanced"] - second["balanced"])
    assert found["noise"] == (not found.get("interval") or found["interval"][0] <= 0 <= found["interval"][1])
    assert shlex.split(found["command"]) == [
        "glmc",
        "train",
        f"folder/{first['system']}",
        f"data.root={photos}",
        *SMALL,
    ]
    assert (target / "held-out.csv").read_text().count("train/oak/") == 2  # a third
    page = (target / "index.html").read_text()
    assert f"{first['system']} won" in page
    assert "test image" not in page

    kept = json.loads((target / "ce-0" / "result.json").read_text())
    (target / "drw-0" / "result.json").unlink()  # as if it had been killed before its end
    assert call(photos) == target
    assert json.loads((target / "ce-0" / "result.json").read_text()) == kept
    again = json.loads((target / "bench.json").read_text())
    assert again["epochs"] == facts["epochs"]
    assert {each["system"]: each["balanced"] for each in again["outcome"]["systems"]} == {
        each["system"]: each["balanced"] for each in found["systems"]
    }
    with pytest.raises(UserError, match="another bench lies there"):
        call(photos, minutes=0.2, out=target)


@pytest.mark.parametrize(
    ("words", "changes", "said"),
    [
        (["data.root=nowhere"], {}, "data.root=nowhere is not a folder"),
        (["train.epochs=3"], {}, "train.epochs is found out in a bench: leave it out"),
        (["then=crt"], {}, "then is not carried out in a bench: leave it out"),
        (["optim.lrr=1"], {}, r"optim\.lr"),
        ([], {"systems": ["ce", "balancd_softmax"]}, "no system 'balancd_softmax'; did you mean balanced_softmax"),
        ([], {"systems": ["ce", "crt"]}, "crt has a second stage"),
        ([], {"systems": ["ce"]}, "name two or more"),
        ([], {"minutes": 0.001}, "--minutes 0.001 is too little: the fewest epochs of two systems take about"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(photos, words, changes, said):
    with pytest.raises(UserError, match=said):
        call(photos, *words, **changes)
    assert not list(photos.parent.glob("runs/*"))


def test_a_single_class_is_refused(photos):
    for name in ("elm", "oak"):
        for part in ("train", "test"):
            (photos / part / name).rename(photos.parent / f"{part}-{name}")
    with pytest.raises(UserError, match="single class 'ash'"):
        call(photos)


def test_two_seeds_that_agree_do_not_make_up_for_few_images(monkeypatch):
    narrow, wide = (Gap(1.0, 1.0 - width, 1.0 + width, 0.01, "") for width in (0.1, 15.0))
    monkeypatch.setattr(compare, "gap", lambda a, b, metric: narrow if len(a.runs) > 1 else wide)
    best, other = (Entry("A", "one", [0, 1], {"balanced": {"mean": mean, "n": 2}}) for mean in (25.0, 24.0))
    assert benched.lead(best, other) == (1.0, wide, True)
