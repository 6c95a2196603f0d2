"""Names that are formulas, HTML or commands to a terminal, links in a run, and runs that name code: all of it inert."""

import csv
import doctest
import random
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glmc import errors, recipe, report
from glmc.data import cells
from glmc.data.cells import guarded, plain
from glmc.errors import UserError
from glmc.report.evidence import read_predictions
from glmc.report.finished import confusion_of
from glmc.train import run

CLASSES = ("=cmd|' & calc'!A1", "@SUM(1+1)", "-2+3", "+1", "<img src=x onerror=alert(1)>", '"><script>alert(1)')
FILES = (
    "=1+1.png",
    "\x1b[31mred\x1b]0;title\x07.png",
    "'><svg onload=alert(1)>.png",
    "-1.png",
    "\x9b2J.png",
)


class Tags(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(images, run) with names that somebody has thought about."""
    base = tmp_path_factory.mktemp("pages")
    draws = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in CLASSES:
            (base / "images" / part / name).mkdir(parents=True)
            for file in FILES:
                pixels = draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(base / "images" / part / name / file)
    values = ["data.size=8", "model.name=resnet20", "train.epochs=1", "train.device=cpu", "data.cache=false"]
    wanted = recipe.load("folder/ce", [f"data.root={base / 'images'}", *values, "views.train=[flip]"])
    return base / "images", run.train(wanted, base / "run", command="glmc train", quiet=True, since=0.0)


@pytest.mark.parametrize("room", [cells, errors], ids=lambda room: room.__name__)
def test_the_examples_in_the_docstrings(room):
    assert doctest.testmod(room).failed == 0


def is_number(text):
    return re.fullmatch(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?", text) is not None


def test_a_run_of_such_names_is_inert(trained, in_a_process_of_its_own, tmp_path, noted):
    """No table has a formula, no page an element of a name, no line commands the terminal; and all names come back."""
    images, folder = trained
    list_of = tmp_path / "cut.csv"
    words = [
        ["stats", images, "--out", tmp_path / "stats.html"],
        ["data", "verify", images],
        ["make-lt", images, "--imbalance", 2, "--out", list_of],
        ["predict", folder, images, "--csv", tmp_path / "out.csv", "--sheet", tmp_path / "sheet.html"],
        ["predict", folder, images],
        ["report", folder, "--out", tmp_path / "table.csv"],
        ["report", folder, "--out", tmp_path / "report.html"],
        ["test", folder],
        ["predict", folder, images / "train" / CLASSES[0] / "\x1b[2Jgone.png"],
    ]
    for each in words:
        code, said, refused = in_a_process_of_its_own(*each)
        assert code in (0, 2), refused
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", said + refused), each
        noted("commands to a terminal in names", "survived")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", (folder / "log.txt").read_text())
    for file in [*folder.glob("*.csv"), *tmp_path.glob("*.csv")]:
        with file.open(newline="") as lines:
            every = [cell for line in csv.reader(lines) for cell in line]
        assert len(every) > 5
        assert not [cell for cell in every if cell[:1] in tuple("=+-@\t\r") and not is_number(cell)], file
        noted("formulas in a table", "survived")
    for page in [folder / "report.html", *tmp_path.glob("*.html")]:
        tags = Tags(page.read_text()).seen
        assert {"script", "iframe", "object", "embed"}.isdisjoint(tag for tag, _ in tags), page
        assert not [name for _, attributes in tags for name in attributes if name.startswith("on")], page
        assert all(attributes.get("src", "data:").startswith("data:") for tag, attributes in tags if tag == "img")
        noted("HTML in names", "survived")
    assert set(confusion_of(folder)[0]) == set(CLASSES)
    found = read_predictions(folder, confusion_of(folder)[0])
    assert found is not None
    assert {Path(name).name for name in found.images} == set(FILES)
    assert in_a_process_of_its_own("stats", list_of, f"data.root={images}", "--json")[0] == 0


@pytest.mark.parametrize("number", [200, pytest.param(20_000, marks=pytest.mark.faults)])
def test_every_cell_comes_back_and_none_is_a_formula(number, noted):
    draw = random.Random(0)
    texts = ["".join(draw.choices("'=+-@\t1.e a", k=draw.randrange(1, 6))) for _ in range(number)]
    for text in texts:
        assert plain(guarded(text)) == text
        assert guarded(text)[0] not in "=+-@\t" or float(text) is not None  # a number
    assert len({guarded(text) for text in texts}) == len(set(texts))
    noted("formulas in a table", "survived")


@pytest.mark.parametrize("kind", ["picture", "folder", "another file"])
def test_a_report_shows_nothing_from_outside_of_its_run(trained, tmp_path, kind, noted):
    run_folder = tmp_path / "run"
    shutil.copytree(trained[1], run_folder)
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"SECRET")
    shown = next(file for file in (run_folder / "examples").iterdir() if file.suffix == ".png")
    if kind == "folder":
        shutil.move(run_folder / "examples", tmp_path / "elsewhere")
        (run_folder / "examples").symlink_to(tmp_path / "elsewhere")
    elif kind == "picture":
        shown.unlink()
        shown.symlink_to(secret)
    else:
        text = (run_folder / "examples" / "examples.json").read_text()
        (run_folder / "examples" / "examples.json").write_text(text.replace(shown.name, "../../secret.png"))
    with pytest.raises(UserError, match="examples.json is not" if kind == "another file" else "is a link"):
        report.write(run_folder)
    assert "U0VDUkVU" not in (run_folder / "report.html").read_text()
    noted("links out of a run", "survived")


MODULE = """
from pathlib import Path
from glmc.losses.cross_entropy import CrossEntropy
Path({marker!r}).touch()

class Loss(CrossEntropy):
    pass
"""


@pytest.mark.faults  # tests/test_main.py tries the same in short
def test_a_run_that_names_code_is_not_believed(tmp_path, in_a_process_of_its_own, monkeypatch, noted):
    """Neither beside the run, nor in the working directory, nor where Python could find it, unless the user says so."""
    monkeypatch.chdir(tmp_path)
    marker, own = tmp_path / "executed", tmp_path / "own"
    own.mkdir()
    (own / "mine.py").write_text(MODULE.format(marker=str(marker)))
    loss = 'loss={name: "mine:Loss"}'
    assert (
        in_a_process_of_its_own(
            "--code", own, "train", "digits_lt/ce", loss, "train.max_steps=1", "--out", "run", "-q"
        )[0]
        == 0
    )
    marker.unlink()
    for place in (tmp_path, tmp_path / "run"):
        shutil.copy(own / "mine.py", place)
    monkeypatch.setattr(sys, "path", [*sys.path, str(own)])
    for words in (
        *(["report", "run"], ["test", "run"], ["predict", "run", "."], ["export", "run", "--format", "safetensors"]),
        *(["calibrate", "run"], ["finetune", "run", "--stage2", "crt"], ["train", "run/recipe.yaml"]),
        *(["show", "run/recipe.yaml"], ["train", "--resume", "run"], ["stats", "run"], ["data", "verify", "run"]),
    ):
        code, _, said = in_a_process_of_its_own(*words)
        assert code in (0, 2), said  # 0: of commands that read files only, or have nothing left to do
        assert not marker.exists(), words
        noted("a run that names code", "survived")
    assert in_a_process_of_its_own("show", "run/recipe.yaml", "--trust")[0] == 0
    assert marker.exists()
