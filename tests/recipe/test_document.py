"""YAML 1.2 in and out, files that cannot be read, and overrides that cannot be carried out."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from glmc import recipe
from glmc.recipe import document

Complaint = Callable[..., str]

# --- values -----------------------------------------------------------------------------------------------------------

TEXTS = ["no", "5e-3", "0o14", "0x1F", "1_000", "1:30", "2023-05-15", "~", "true", "null", "", " ", "a: b", "#x", "-"]
TEXTS += ["é\u2028\n", '"\\', "1e5", "😀\ufeff", "=", "<<", "0b1", ".inf", "+.5"]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives_writing_and_reading(text: str, tmp_path: Path):
    tree = {"published": {"top1": 1e-7, "network": "n" + text, "source": text, "list": [text, {text: 1}]}}
    written = document.write(tree, "")
    (tmp_path / "again.yaml").write_text(written, newline="")
    assert document.read(document.read_text(str(tmp_path / "again.yaml")), "again.yaml").tree == tree
    assert yaml.safe_load(written) == tree  # a YAML 1.1 reader sees the same


def test_the_comment_at_the_head_survives_too():
    about = "Cats with a long tail.\n\n  run   glmc train cats.yaml"
    written = document.write({"a": {"b": "c"}}, about)
    assert written == "# Cats with a long tail.\n#\n#   run   glmc train cats.yaml\na:\n  b: c\n"
    assert document.head(written) == about


SCALARS = [
    ("5e-3", 0.005), ("1e3", 1000.0), (".5", 0.5), ("-.5", -0.5), ("+1.", 1.0), ("1.5E+2", 150.0), ("12", 12),
    ("-3", -3), ("010", 10), ("0x10", 16), ("0o10", 8), ("true", True), ("False", False), ("null", None), ("~", None),
    ("", None), ("no", "no"), ("yes", "yes"), ("on", "on"), ("Off", "Off"), ("y", "y"), ("1_000", "1_000"),
    ("1:30", "1:30"), ("2023-05-15", "2023-05-15"), ("0b11", "0b11"), ("1e", "1e"), ("e3", "e3"), (".", "."),
    ("-0x1", "-0x1"),
    ("tRue", "tRue"), ("~/x", "~/x"), ("1.2.3", "1.2.3"), ("'5'", "5"), ('"true"', "true"), ("<<", "<<"), ("=", "="),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object):
    read = document.read(f"key: {text}", "file").tree
    assert (read, type(read["key"])) == ({"key": value}, type(value))
    alone = document.read(text, "file").tree
    assert (alone, type(alone)) == (value, type(value))


def test_values_know_where_they_stand():
    read = document.read("a:\n  b: 1\n  c:\n  - 2\n  - {d: 3}\n", "f.yaml")
    assert {document.dotted(path): place.order for path, place in read.places.items()} == {
        "": 1, "a": 1, "a.b": 2, "a.c": 3, "a.c[0]": 4, "a.c[1]": 5, "a.c[1].d": 5,
    }  # fmt: skip
    read.override(["a.c=4"])
    assert [read.overridden(path) for path in (("a",), ("a", "b"), ("a", "c"))] == [False, False, True]
    assert read.tree == {"a": {"b": 1, "c": 4}}
    assert ("a", "c", 0) not in read.places


# --- overrides --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("shop")
def test_overrides_are_read_like_files():
    changes = ["optim.weight_decay=5e-3", "data.root=~/x", "train.ema=null", "views.test=[{center_crop: 28}]"]
    changes += ["expect={top1: 51, sd: 0, seeds: 1, record: no}"]
    r = recipe.load("cats.yaml", changes)
    assert (r.optim.weight_decay, r.data.root, r.train.ema) == (0.005, "~/x", None)
    assert r.views["test"] == [{"center_crop": 28}]
    assert r.expect is not None
    assert (r.expect.top1, r.expect.record) == (51.0, "no")


OVERRIDES = {
    "views.test.x=3": "views.test holds no keys: set it as a whole, views.test=...",
    "train.seed": "an override is written key=value, e.g. train.seed=3",
    "=3": "an override is written key=value, e.g. train.seed=3",
    "train..seed=3": "an override is written key=value, e.g. train.seed=3",
    "data.root=[a": "this cannot be read as YAML: while parsing a flow sequence expected ',' or ']', but got "
    "'<stream end>'; text with special characters needs quotes, and a colon a space after it",
    "data.root=a\x07": "this cannot be read as YAML: unprintable character; "
    "text with special characters needs quotes, and a colon a space after it",
    "data.root=!!str a": "this cannot be read as YAML: recipes use no tags (!name); "
    "text with special characters needs quotes, and a colon a space after it",
    'data.root="a\\0"': "the text 'a\\x00' holds a character that cannot be written; remove it",
    "data={name: a, name: b}": "data.name is written twice, first at override data={name: a, name: b}: keep one",
}  # fmt: skip


@pytest.mark.parametrize(("override", "sentence"), OVERRIDES.items())
def test_a_wrong_override_is_told_in_a_sentence(override: str, sentence: str, said_of: Callable[[str], str]):
    assert said_of(override) == sentence


@pytest.mark.parametrize(
    "pair", [("train.seed=1", "train.seed=2"), ("optim={lr: 1, weight_decay: 0}", "optim.lr=2")], ids=["key", "section"]
)
def test_a_key_set_twice_is_refused(complaint: Complaint, pair: tuple[str, str]):
    key = pair[1].partition("=")[0]
    assert (
        complaint("cats.yaml", *pair)
        == f"override {pair[1]}: {key} is set twice, first by override {pair[0]}: keep one"
    )


# --- files ------------------------------------------------------------------------------------------------------------

FILES = [
    ("  lr: 1e-1\n", "  lr: fast\n",
     'cats.yaml:15: optim.lr must be a number, not "fast" (peak learning rate, above 0)'),
    ("  lr: 1e-1\n", "", "cats.yaml:13: optim.lr is missing (peak learning rate, above 0)"),
    ("  lr: 1e-1\n", "  learning_rate: 1\n  lr: 1\n", "cats.yaml:15: unknown key optim.learning_rate; "
     "did you mean optim.lr?"),
    ("eval: {", "evla: {", "cats.yaml:19: unknown key evla; did you mean eval?"),
    ("train:\n  epochs: 200\n", "", "cats.yaml: train is missing"),
    ("strength: 3", "stength: 3", "cats.yaml:12: unknown key method.stength; did you mean method.strength?"),
    ("expect: null", "expect: {top1: 1, sd: -1, seeds: 5, record: x}", "cats.yaml:6: expect.sd must be at least 0, "
     "not -1 (sample standard deviation over the seeds, in percentage points)"),
    ("  lr: 1e-1\n", "  lr: 1\n  lr: 2\n", "cats.yaml:16: optim.lr is written twice, first at cats.yaml:15: keep one"),
    ("  imbalance: 100", "\timbalance: 100", "cats.yaml:9: this cannot be read as YAML: while scanning for the next "
     "token found character '\\t' that cannot start any token; "
     "text with special characters needs quotes, and a colon a space after it"),
    ("expect: null", "? [a]\n: b", "cats.yaml:6: a key must be a word, not a list or a group"),
    ("name: folder ", "name: &a folder\n  root: *a ", "cats.yaml:9: this cannot be read as YAML: "
     "recipes use no aliases (*name); text with special characters needs quotes, and a colon a space after it"),
    ("eval: {", "---\neval: {", "cats.yaml:19: this cannot be read as YAML: expected a single document in the stream "
     "but found another document; text with special characters needs quotes, and a colon a space after it"),
]  # fmt: skip


@pytest.mark.parametrize(("right", "wrong", "sentence"), FILES)
def test_a_wrong_file_is_told_with_its_line(right: str, wrong: str, sentence: str, complaint: Complaint):
    text = Path("cats.yaml").read_text()
    assert right in text
    Path("cats.yaml").write_text(text.replace(right, wrong))
    assert complaint("cats.yaml") == sentence


def test_a_file_that_is_no_text_is_told(complaint: Complaint, shop: Path):
    (shop / "cat.jpg").write_bytes(b"\xff\xd8\n\xff\xe0")
    assert complaint("cat.jpg") == "cat.jpg:1: this is not text in UTF-8: save the recipe in that encoding"
    (shop / "cat.jpg").write_bytes(b" " * (document.LARGEST_FILE + 1))
    assert "cannot be read: larger than 262,144 bytes; give the recipe's own file" in complaint("cat.jpg")
    os.mkfifo(shop / "pipe.yaml")
    assert "cannot be read: not a file; give the recipe's own file" in complaint("pipe.yaml")


def test_an_anchor_without_an_alias_does_no_harm(shop: Path):
    text = (shop / "cats.yaml").read_text()
    (shop / "cats.yaml").write_text(text.replace("expect: null", "expect: &a null"))
    assert recipe.load("cats.yaml").expect is None


def test_a_byte_order_mark_and_windows_lines_are_read(shop: Path):
    text, wanted = (shop / "cats.yaml").read_text(), recipe.load("cats.yaml")
    (shop / "cats.yaml").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert recipe.load("cats.yaml") == wanted


def test_deep_brackets_are_told(complaint: Complaint, shop: Path):
    (shop / "cats.yaml").write_text("views: " + "[" * 100_000)
    assert complaint("cats.yaml").startswith("cats.yaml:1: this cannot be read as YAML: brackets nested too deeply; ")
