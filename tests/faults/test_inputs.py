"""Lists, tables, recipes and hub folders with a fault in them: exit code 2, one sentence, and the line of the fault."""

import io
import json
import random
import re
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from glmc import __main__, recipe
from glmc.data import hub, lists, sources

RECIPE = """\
# Cats with a long tail.
data:
  name: digits
  imbalance: 10
  batch_size: 32
views:
  train: [{crop: 1}]
  test: []
model:
  name: resnet20
method:
  name: supervised
optim:
  name: sgd
  lr: 0.1
  weight_decay: 5e-4
train:
  epochs: 3
  seed: 0
eval:
  few: "<20"
"""
VALUES = [f"  {key}" for key in ("imbalance: 10", "batch_size: 32", "lr: 0.1", "epochs: 3", "seed: 0")]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder of forty images."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(40):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(folder / f"{i}.png")
    return folder


def refused(work: Callable[[], object]) -> str | None:
    """The sentence that the command would end with, by exit code 2; None if the input is taken."""
    try:
        work()
    except Exception as error:
        sentence, code = __main__.explain(error)
        assert code == 2, sentence
        assert len(sentence) < 2000
        assert "\n" not in sentence or " mistakes:\n" in sentence, sentence
        return sentence
    return None


# Fault -> names of the classes, and what becomes of the image and label of one line (between them stands {}).
LINES = {
    "no label": (["cat", "dog"], "{image}"),
    "an image for a label": (["cat", "dog"], "{image} 3.png"),
    "no path": (["cat", "dog"], "{separator}{label}"),
    "a negative label": (["0", "1"], "{image}{separator}-1"),
    "minus nothing": (["0", "1"], "{image}{separator}-0"),
    "a label beyond all": (["0", "1"], "{image}{separator}99999999999999999999"),
    "a number among names": (["cat", "dog"], "{image}{separator}1"),
    "a name among numbers": (["0", "1"], "{image}{separator}cat"),
    "a zero byte": (["cat", "dog"], "\0{image}{separator}{label}"),
    "a control character": (["cat", "dog"], "{image}{separator}{label}\x1b[31m"),
    "another spelling": (["cat", "Äpfel"], "{image}{separator}CAT"),
    "a file that is not there": (["cat", "dog"], "x{image}{separator}{label}"),
    "a path out of the folder": (["cat", "dog"], "../../{image}{separator}{label}"),
    "an endless path": (["cat", "dog"], "{image}" + "/x" * 50_000 + "{separator}{label}"),
    "an open quote": (["cat", "dog"], '"{image}{separator}{label}'),
    "a cell without end": (["cat", "dog"], '"' + "x" * 200_000 + '"{separator}{label}'),
}


@pytest.mark.parametrize("number", [2, pytest.param(10, marks=pytest.mark.faults)])
@pytest.mark.parametrize("kind", ["txt", "csv"])
@pytest.mark.parametrize("fault", LINES)
def test_a_bad_line_of_a_list_is_named(root, tmp_path, fault, kind, number, noted):
    for seed in range(number):
        draw = random.Random(f"{fault} {kind} {seed}")
        separator, (classes, bad) = "," if kind == "csv" else " ", LINES[fault]
        images = [f"{row}.png" for row in draw.sample(range(40), draw.randrange(6, 30))]
        lines = [f"{image}{separator}{classes[i % 2]}" for i, image in enumerate(images)]
        at = draw.randrange(2, len(lines))
        lines[at] = bad.format(image=images[at], separator=separator, label=classes[at % 2])
        head = ["path,label"] if kind == "csv" else []
        file = tmp_path / f"list.{kind}"
        file.write_text("\n".join([*head, *lines]) + "\n")
        said = refused(lambda file=file: sources.load("list", root=str(root), train_list=str(file)))
        assert said is not None, lines[at]
        assert re.search(rf"list.{kind}:{at + 1 + len(head)}\b", said), said
        noted("a bad line in a list or table", "survived")


# Fault -> what becomes of one line of a recipe that has a number as its value.
KEYS = {
    "an unknown key": lambda line: line.replace(":", "x:"),
    "text for a number": lambda line: line.partition(":")[0] + ": many",
    "a list for a number": lambda line: line.partition(":")[0] + ": [1, 2]",
    "a negative number": lambda line: line.partition(":")[0] + ": -7.5",
    "infinity": lambda line: line.partition(":")[0] + ": .inf",
    "not a number": lambda line: line.partition(":")[0] + ": .nan",
    "true": lambda line: line.partition(":")[0] + ": true",
    "a group of keys": lambda line: line.partition(":")[0] + ": {a: 1}",
    "the key twice": lambda line: f"{line}\n{line}",
    "a tab": lambda line: "\t" + line,
    "no colon": lambda line: line.replace(":", ""),
    "an open bracket": lambda line: line.partition(":")[0] + ": [1, 2",
    "an open quote": lambda line: line.partition(":")[0] + ": '1",
    "an alias to nothing": lambda line: line.partition(":")[0] + ": *nothing",
    "a tag": lambda line: line.partition(":")[0] + ": !!python/object/apply:os.system [exit]",
    "a control character": lambda line: line + " \x1b[31m",
    "a zero byte": lambda line: line + "\0",
    "another encoding": lambda line: line + "  # \udce4",
}
LATER = ("the key twice", "no colon")  # may be seen in the line below


@pytest.mark.parametrize("number", [2, pytest.param(10, marks=pytest.mark.faults)])
@pytest.mark.parametrize("fault", KEYS)
def test_a_bad_line_of_a_recipe_is_named(tmp_path, fault, number, noted):
    for seed in range(number):
        draw = random.Random(f"{fault} {seed}")
        lines = RECIPE.splitlines()
        for _ in range(draw.randrange(5)):  # comments and blank lines, so that the line is another each time
            lines.insert(draw.randrange(len(lines)), draw.choice(["", "# so it is"]))
        at = lines.index(draw.choice(VALUES))
        lines[at] = KEYS[fault](lines[at])
        file = tmp_path / "cats.yaml"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
        said = refused(lambda file=file: recipe.load(str(file)))
        assert said is not None, lines[at]
        assert re.search(rf"cats.yaml:({at + 1}|{at + 1 + (fault in LATER)})\b", said), (at + 1, said)
        noted("a bad line in a recipe", "survived")


def scrambled(draw: random.Random, content: bytes) -> bytes:
    """Bytes exchanged, cut off, doubled or brought in."""
    changed = bytearray(content)
    for _ in range(draw.randrange(1, 4)):
        at = draw.randrange(len(changed))
        kind = draw.randrange(4)
        if kind == 0:
            changed[at] = draw.randrange(256)
        elif kind == 1:
            del changed[at : at + draw.randrange(1, 30)]
        elif kind == 2:
            changed[at:at] = changed[at : at + draw.randrange(1, 30)]
        else:
            changed[at:at] = draw.randbytes(draw.randrange(1, 8))
        changed = changed or bytearray(b"\n")
    return bytes(changed)


@pytest.mark.parametrize("number", [20, pytest.param(200, marks=pytest.mark.faults)])
def test_scrambled_files_are_refused_or_mean_what_they_say(root, tmp_path, number, noted):
    """Of a list, what is taken has a line for each image; of a recipe, it is written and read back as the same."""
    for seed in range(number):
        draw = random.Random(seed)
        rows = [f"{row}.png {draw.choice(['cat', 'dog'])}" for row in range(40)]
        (tmp_path / "list.txt").write_bytes(scrambled(draw, "\n".join(rows).encode()))
        (tmp_path / "list.csv").write_bytes(
            b"path,label\n" + scrambled(draw, "\n".join(rows).replace(" ", ",").encode())
        )
        for name in ("list.txt", "list.csv"):
            taken = []
            said = refused(lambda name=name, taken=taken: taken.append(listed(root, tmp_path / name)))
            if taken:
                text = (tmp_path / name).read_bytes()
                assert len(taken[0]) <= len(re.findall(rb"[^\s][^\r\n]*", text))
            else:
                assert said is not None
                assert name in said or "class" in said, said
            noted("a scrambled list or table", "survived")
        (tmp_path / "cats.yaml").write_bytes(scrambled(draw, RECIPE.encode()))
        read = []
        said = refused(lambda read=read: read.append(recipe.load(str(tmp_path / "cats.yaml"))))
        if read:
            assert recipe.parse(read[0].to_yaml()).to_yaml() == read[0].to_yaml()
        else:
            assert said is not None
            assert re.search(r"cats.yaml:\d+: ", said), said
        noted("a scrambled recipe", "survived")


def listed(root, file):
    return lists.read(root, {"train": str(file)})[0]["train"]


HUB = {
    "no images": lambda folder, draw: [file.unlink() for file in folder.rglob("*.parquet")],
    "a table cut short": lambda folder, draw: cut(draw, folder / "data" / "train-00000-of-00001.parquet"),
    "a scrambled table": lambda folder, draw: scramble(draw, folder / "data" / "train-00000-of-00001.parquet"),
    "no table": lambda folder, draw: (folder / "data" / "train-00000-of-00001.parquet").write_bytes(b"nothing"),
    "a card that is no YAML": lambda folder, draw: (folder / "README.md").write_text("---\nconfigs: [\n---\n"),
    "a card of other files": lambda folder, draw: (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: gone/*.parquet\n---\n"
    ),
    "a card of other columns": lambda folder, draw: (folder / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - {name: photo, dtype: int64}\n---\n"
    ),
    "a program": lambda folder, draw: (folder / f"{folder.name}.py").write_text("raise SystemExit('it ran')"),
    "text for a label": lambda folder, draw: (
        (folder / "data" / "train-00000-of-00001.parquet").unlink()
        or (folder / "data" / "train.jsonl").write_text(json.dumps({"photo": "0.png", "label": "cat"}) + "\n")
    ),
}


def cut(draw, file):
    file.write_bytes(file.read_bytes()[: draw.randrange(1, file.stat().st_size)])


def scramble(draw, file):
    file.write_bytes(scrambled(draw, file.read_bytes()))


@pytest.mark.parametrize(
    ("fault", "number"),
    [("a program", 1), ("no table", 1), *(pytest.param(fault, 6, marks=pytest.mark.faults) for fault in HUB)],
)
def test_a_bad_hub_folder_is_refused(tmp_path, monkeypatch, fault, number, noted):
    datasets = pytest.importorskip("datasets", reason="needs datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    for seed in range(number):
        folder = tmp_path / f"bugs{seed}"
        (folder / "data").mkdir(parents=True)
        content = io.BytesIO()
        Image.fromarray(np.full((4, 4, 3), seed, np.uint8)).save(content, format="PNG")
        rows = {"photo": [{"bytes": content.getvalue(), "path": "0.png"}] * 4, "label": [0, 1, 0, 1]}
        features = datasets.Features({"photo": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])})
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
        HUB[fault](folder, random.Random(f"{fault} {seed}"))
        taken = []
        said = refused(lambda folder=folder, taken=taken: taken.append(hub.read(f"hf:{folder}")))
        if fault in ("a scrambled table", "a program") and taken:
            assert taken[0][0]["train"].classes == ("ant", "bee")  # the damage is in the pixels, or nothing has run
        else:
            assert said is not None
            assert str(folder) in said
        noted("a bad folder of the hub", "survived")


def test_a_fault_among_many_lines_is_never_taken_for_another(tmp_path, root, noted):
    """What only cp1252 can read is read so, unless a line is neither that nor UTF-8."""
    (tmp_path / "list.txt").write_bytes("0.png Č\n1.png cat\n".encode() + b"2.png \xe4\n")  # Č is \xc4\x8c
    (tmp_path / "worse.txt").write_bytes("0.png cat\n1.png ā\n".encode() + b"2.png \xe4\n")  # ā is \xc4\x81
    said = refused(lambda: sources.load("list", root=str(root), train_list=str(tmp_path / "worse.txt")))
    assert said is not None
    assert "worse.txt:2: " in said
    assert lists.encoding_of(tmp_path / "list.txt") == "cp1252"
    noted("a bad line in a list or table", "survived")
