"""Recipes: what is read, what is refused and in which words."""

import inspect
import random
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Literal

import pytest
import yaml
from pydantic import ValidationError

from glmc import recipe
from glmc.errors import UserError
from glmc.methods import METHODS

RIGHT = """\
# Cats with a long tail.
#
#   run   glmc train cats.yaml

published: {top1: 87.75, network: resnet32_w64, source: README 2023-05-15}
expect: null
data:
  name: folder   # a comment
  imbalance: 100
views: {train: [{crop: 4}, flip, {resized_crop: {size: 32}}], test: []}
model: {name: resnet32}
method: {name: "shop.methods:Mixer", strength: 3}
optim:
  name: sgd
  lr: 1e-1
  weight_decay: 5e-3
train:
  epochs: 200
eval: {few: "<=20"}
"""

METHOD = '''\
from typing import Literal
import torch  # must not be run


class Base:
    def __init__(self, backbone, counts, *, strength: float = 2, depth: int | None = None):
        pass


class Mixer(Base):
    """Says more than its base and hands on the rest."""

    def __init__(self, backbone, counts, *, share: Literal["box", "drawn"] = "box", slow: bool = False, **rest):
        super().__init__(backbone, counts, **rest)


class Heir(Mixer):
    pass


class Needy(Base):
    def __init__(self, backbone, counts, *, rate: float):
        pass


class Vague:
    def __init__(self, backbone, counts, *, rate=0.5):
        pass


class Computed:
    def __init__(self, backbone, counts, *, rate: float = 1 / 3):
        pass


class IllTyped:
    def __init__(self, backbone, counts, *, rate: int = 0.5):
        pass


class Odd:
    def __init__(self, backbone, counts, *, rate: Literal[1.5] = 1.5):
        pass


class Bytes:
    def __init__(self, backbone, counts, *, rate: str = b"x"):
        pass


class Plain(torch.nn.Module):
    pass
'''


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: a package with methods, a recipe, and both findable from the working directory."""
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (package / "methods.py").write_text(METHOD)
    (package / "more.py").write_text(
        "from . import methods as m\nfrom .methods import Needy as Base\nfrom glmc.methods.glmc import GLMC\n"
        "class Far(m.Mixer): ...\nclass Near(Base): ...\nclass Ours(GLMC): ...\nclass Loop(Loop): ...\n"
    )
    (package / "broken.py").write_text("class Mixer(:\n")
    (tmp_path / "cats.yaml").write_text(RIGHT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def complaint(file: str | Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        recipe.load(str(file), overrides)
    return str(caught.value)


# --- what is read -----------------------------------------------------------------------------------------------------


def test_a_right_recipe_is_complete():
    r = recipe.load("cats.yaml")
    assert (r.name, r.data.imbalance, r.data.batch_size, r.optim.lr, r.eval.few) == ("cats", 100.0, 64, 0.1, "<=20")
    assert r.published is not None
    assert r.published.source == "README 2023-05-15"
    assert r.expect is None
    assert r.views == {"train": [{"crop": 4}, "flip", {"resized_crop": {"size": 32, "scale": [0.08, 1.0]}}], "test": []}
    assert r.method.name == "shop.methods:Mixer"
    assert r.method.params == {"strength": 3.0, "depth": None, "share": "box", "slow": False}
    assert r.about == "Cats with a long tail.\n\n  run   glmc train cats.yaml"


def test_a_recipe_cannot_be_changed():
    r = recipe.load("cats.yaml")
    with pytest.raises(ValidationError, match="frozen"):
        r.train = r.train  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        r.train.epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", recipe.names())
def test_packaged_recipes_survive_writing_and_reading(name: str, tmp_path: Path):
    r = recipe.load(name)
    assert r.name == name
    assert r.about
    (tmp_path / "recipe.yaml").write_text(r.to_yaml())
    assert recipe.load(str(tmp_path / "recipe.yaml")) == r


def test_packaged_recipes_are_named_by_folder_and_file():
    assert {"digits_lt/ce", "digits_lt/glmc"} <= set(recipe.names())
    assert recipe.names() == sorted(recipe.names())


TEXTS = ["no", "5e-3", "0o14", "0x1F", "1_000", "1:30", "2023-05-15", "~", "true", "null", "", " ", "a: b", "#x", "-"]
TEXTS += ["é\u2028\n", '"\\', "1e5", "😀\ufeff", "=", "<<", "0b1", ".inf", "+.5"]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives_writing_and_reading(text: str, tmp_path: Path):
    r = recipe.load("cats.yaml")
    r = r.model_copy(update={"published": recipe.Published(top1=1e-7, network="n" + text, source=text or "x")})
    (tmp_path / "again.yaml").write_text(r.to_yaml(), newline="")
    assert recipe.load(str(tmp_path / "again.yaml")) == r
    assert yaml.safe_load(r.to_yaml())["published"]["source"] == (text or "x")  # a YAML 1.1 reader sees the same


def test_written_numbers_are_numbers_for_every_reader():
    written = recipe.load("cats.yaml", ["optim.weight_decay=5e-3", "optim.lr=1e-5"]).to_yaml()
    assert "weight_decay: 0.005\n" in written
    assert yaml.safe_load(written)["optim"]["lr"] == 1e-5  # PyYAML needs the dot of 1.0e-05
    assert "  train: [{crop: 4}, flip, {resized_crop: {size: 32, scale: [0.08, 1.0]}}]\n" in written
    order = [line.partition(":")[0] for line in written.splitlines() if line[0].isalpha()]
    assert order == ["name", "published", "expect", "data", "views", "model", "method", "optim", "train", "eval"]


def test_a_recipe_is_read_from_text_too():
    r = recipe.load("cats.yaml")
    assert recipe.parse(r.to_yaml()) == r
    assert recipe.parse(RIGHT, ["train.seed=3"], name="cats") == r.override("train.seed=3")
    with pytest.raises(UserError, match=r"^weights\.json:1: this cannot be read as YAML: "):
        recipe.parse("]", label="weights.json")


def test_a_stored_name_outlives_the_file_name(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text(recipe.load("cats.yaml").to_yaml())
    assert recipe.load(str(tmp_path / "recipe.yaml")).name == "cats"


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
    read, _, _ = recipe._parse(f"key: {text}", lambda line: recipe.Place(line, "file"))
    assert (read, type(read["key"])) == ({"key": value}, type(value))
    alone, _, _ = recipe._parse(text, lambda line: recipe.Place(line, "override"))
    assert (alone, type(alone)) == (value, type(value))


def test_infinite_numbers_are_read_and_refused():
    assert complaint("cats.yaml", "optim.clip=-.inf").startswith(
        "override optim.clip=-.inf: optim.clip must be a finite number, not -Infinity ("
    )


def test_overrides_are_read_like_files():
    changes = ["optim.weight_decay=5e-3", "data.root=~/x", "train.ema=null", "views.test=[{center_crop: 28}]"]
    changes += ["expect={top1: 51, sd: 0, seeds: 1, record: no}"]
    r = recipe.load("cats.yaml", changes)
    assert (r.optim.weight_decay, r.data.root, r.train.ema) == (0.005, "~/x", None)
    assert r.views["test"] == [{"center_crop": 28}]
    assert r.expect is not None
    assert (r.expect.top1, r.expect.record) == (51.0, "no")


def test_a_whole_section_is_replaced_by_one_override():
    r = recipe.load("digits_lt/glmc", ["method={name: ce}"])
    assert (r.method.name, r.method.params) == ("ce", {})


def test_override_of_a_loaded_recipe():
    r = recipe.load("cats.yaml")
    again = r.override("train.seed=3", "method.strength=1")
    assert (again.train.seed, again.method.params["strength"], r.train.seed) == (3, 1.0, 0)
    assert (again.name, again.about, again.override("train.seed=0", "method.strength=3")) == (r.name, r.about, r)
    with pytest.raises(
        UserError, match=r"^override train\.sede=3: unknown key train\.sede; did you mean train\.seed\?$"
    ):
        r.override("train.sede=3")


# --- what is refused --------------------------------------------------------------------------------------------------

OVERRIDES = {
    "train.sede=3": "unknown key train.sede; did you mean train.seed?",
    "seed=3": "unknown key seed; did you mean train.seed?",
    "trian.epochs=3": "unknown key trian; did you mean train?",
    "optim.zzz=3": "unknown key optim.zzz; optim has name, lr, backbone_lr, momentum, nesterov, weight_decay, clip",
    "zzz=3": "unknown key zzz; a recipe has name, published, expect, data, views, model, method, optim, train, eval",
    "method.strenth=3": "unknown key method.strenth; did you mean method.strength?",
    "method.params=3": "unknown key method.params; method has name, strength, depth, share, slow",
    "train.epochs=2e2": "train.epochs must be a whole number, not 200.0 (passes over the training images)",
    "train.epochs=true": "train.epochs must be a whole number, not true (passes over the training images)",
    "train.epochs=1_000": 'train.epochs must be a whole number, not "1_000" (passes over the training images)',
    "optim.lr=true": "optim.lr must be a number, not true (peak learning rate, above 0)",
    "optim.lr=": "optim.lr must be a number, not null (peak learning rate, above 0)",
    "optim.lr=0": "optim.lr must be above 0, not 0 (peak learning rate, above 0)",
    "data.download=no": 'data.download must be true or false, not "no" '
    "(whether a missing public data set may be fetched)",
    "published.source=2023": "published.source must be text, not 2023, which in quotes would be text "
    "(where the figure stands, with its date)",
    "data.imbalance=0.01": "data.imbalance must be at least 1, not 0.01 "
    "(training images of the largest class / of the smallest; null: the images as they are)",
    "data.split=dü": 'data.split must be "cao" or "du", not "dü" '
    "(which images stay: as Cao et al. 2019 draw them, or as Du et al. 2023 do)",
    "data.class_order=x": 'data.class_order must be "given" or a whole number, not "x" '
    "(classes from large to small: in label order, or shuffled by this seed)",
    "data.channels=true": "data.channels must be 1 (grey), 3 (colour) or null (as the images are), not true",
    "data.channels=2": "data.channels must be 1 or 3, not 2 (1 grey, 3 colour; null: as the images are)",
    "data.name=''": 'data.name must be a text that is not empty, not "" '
    "(data set: digits, cifar10, cifar100, folder or list)",
    "model.pretrained=no": 'model.pretrained must be true, false or a file of weights, not "no"',
    "method.share=bix": 'method.share must be "box" or "drawn", not "bix"',
    "method.slow=1": "method.slow must be true or false, not 1",
    "method.depth=1.5": "method.depth must be a whole number, not 1.5",
    "method=ce": 'method must be a group of keys, not "ce"',
    "optim=null": "optim must be a group of keys, not null",
    "method.name=3": 'method.name must be text, not 3, which in quotes would be text (method: of `glmc list methods`, '
    'or a class as "package.module:Class")',
    "method={}": 'method.name is missing (method: of `glmc list methods`, or a class as "package.module:Class")',
    "train.schedule=step": "train.schedule is step, which needs train.milestones, e.g. [0.8, 0.9]",
    "train.milestones=[0.5]": "train.milestones has no effect with train.schedule=cosine: set it to [], or use step",
    "train={epochs: 1, schedule: step, milestones: [0.9, 0.8]}": "train.milestones must ascend, not [0.9, 0.8]",
    "train={epochs: 1, schedule: step, milestones: [0.5, 1]}": "train.milestones[1] must be below 1, not 1 "
    "(where a step schedule steps, ascending fractions of the epochs, in (0, 1))",
    "optim={lr: 1, weight_decay: 0, nesterov: true, momentum: 0}": "optim.nesterov needs optim.momentum above 0: "
    "raise it, or set nesterov to false",
    "optim={lr: 1, weight_decay: 0, nesterov: true, name: adamw}": "optim.nesterov is for optim.name=sgd only, "
    "and this is adamw: set it to false",
    "data={name: digits, n_max: 9}": "data.n_max has no effect without data.imbalance: give both, or set n_max to null",
    "data.mean=[0.5]": "data.mean stands alone: give data.mean and data.std, or neither",
    "data={name: a, mean: [0.5, 0.5], std: [1, 1]}": "data.mean must have one value per channel (1 or 3), not 2",
    "data={name: a, channels: 3, mean: [0.5], std: [1]}": "data.mean must have one value per channel (3), not 1",
    "views={train: []}": "views must hold test, a list of operations, e.g. test: []",
    "views.train=flip": 'views.train must be a list, not "flip" (augmentations by name, each a list of flip, '
    "{crop: border}, {resized_crop: {size, scale}} or {center_crop: side}; train and test must be there)",
    "views.train=[flop]": "views.train[0] must be flip, {crop: border}, {resized_crop: {size, scale}} or "
    '{center_crop: side}, not "flop"',
    "views.train=[{crop: 1, flip: 2}]": "views.train[0] must be flip, {crop: border}, {resized_crop: {size, scale}} or "
    '{center_crop: side}, not {"crop": 1, "flip": 2}',
    "views.train=[{crop: -1}]": "views.train[0].crop must be at least 0, not -1",
    "views.train=[flip, flip]": "views.train holds flip 2 times: once is enough",
    "views.train=[{resized_crop: {size: 3, scael: 1}}]": "unknown key views.train[0].resized_crop.scael; "
    "did you mean views.train[0].resized_crop.scale?",
    "views.train=[{resized_crop: {size: 3, scale: [1, 0.5]}}]": "views.train[0].resized_crop.scale must be two "
    "numbers, the smaller first, e.g. [0.08, 1.0]",
    "views.test=[flip]": "views.test may hold center_crop only: the other operations are random, and tests must not be",
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
    "method.name=glmcc": "there is no method 'glmcc'; did you mean glmc? `glmc list methods` names all",
    "method.name=xyz": "there is no method 'xyz'; a class of your own is written \"package.module:Class\"; "
    "`glmc list methods` names all",
    "method.name=shop.method:Mixer": "the method 'shop.method:Mixer' is not there: Python finds no module shop.method; "
    "start in the folder that holds it, or name that folder in PYTHONPATH",
    "method.name='shop.methods:'": "the method 'shop.methods:' is not written \"package.module:Class\"",
    "method.name=ce": "the method ce has no strength; to leave all parameters of the recipe's own method behind, "
    "write method={name: ce}",
    'method={name: "shop.methods:Needy"}': "method.rate is missing: the method has no default for it",
    'method={name: "shop.methods:IllTyped"}': "method.rate must be a whole number, not 0.5",
}  # fmt: skip


@pytest.mark.parametrize(("override", "sentence"), OVERRIDES.items())
def test_a_wrong_override_is_told_in_a_sentence(override: str, sentence: str):
    place = f"override {override}" if len(override) <= 60 else f"override {override[:57]}..."
    found = complaint("cats.yaml", override)
    assert found == f"{place}: {sentence}"


FILES = [
    ("  lr: 1e-1\n", "  lr: fast\n",
     'cats.yaml:15: optim.lr must be a number, not "fast" (peak learning rate, above 0)'),
    ("  lr: 1e-1\n", "", "cats.yaml:13: optim.lr is missing (peak learning rate, above 0)"),
    ("  lr: 1e-1\n", "  learning_rate: 1\n  lr: 1\n", "cats.yaml:15: unknown key optim.learning_rate; "
     "optim has name, lr, backbone_lr, momentum, nesterov, weight_decay, clip"),
    ("  lr: 1e-1\n", "  lr: 1\n  lr: 2\n", "cats.yaml:16: optim.lr is written twice, first at cats.yaml:15: keep one"),
    ("eval: {", "evla: {", "cats.yaml:19: unknown key evla; did you mean eval?"),
    ("train:\n  epochs: 200\n", "", "cats.yaml: train is missing"),
    ("strength: 3", "stength: 3", "cats.yaml:12: unknown key method.stength; did you mean method.strength?"),
    ("  imbalance: 100", "\timbalance: 100", "cats.yaml:9: this cannot be read as YAML: while scanning for the next "
     "token found character '\\t' that cannot start any token; "
     "text with special characters needs quotes, and a colon a space after it"),
    ("expect: null", "expect: &a null", None),
    ("expect: null", "expect: {top1: 1, sd: -1, seeds: 5, record: x}", "cats.yaml:6: expect.sd must be at least 0, "
     "not -1 (sample standard deviation over the seeds, in percentage points)"),
    ("expect: null", "? [a]\n: b", "cats.yaml:6: a key must be a word, not a list or a group"),
    ("name: folder ", "name: &a folder\n  root: *a ", "cats.yaml:9: this cannot be read as YAML: "
     "recipes use no aliases (*name); text with special characters needs quotes, and a colon a space after it"),
    ("eval: {", "---\neval: {", "cats.yaml:19: this cannot be read as YAML: expected a single document in the stream "
     "but found another document; text with special characters needs quotes, and a colon a space after it"),
]  # fmt: skip


@pytest.mark.parametrize(("right", "wrong", "sentence"), FILES)
def test_a_wrong_file_is_told_with_its_line(right: str, wrong: str, sentence: str | None, shop: Path):
    assert right in RIGHT
    (shop / "cats.yaml").write_text(RIGHT.replace(right, wrong))
    if sentence is None:
        assert recipe.load("cats.yaml").expect is None
    else:
        assert complaint("cats.yaml") == sentence


def test_all_mistakes_are_told_together_in_reading_order(shop: Path):
    (shop / "cats.yaml").write_text(
        RIGHT.replace("lr: 1e-1", "lr: fast")
        .replace("name: resnet32}", "nam: x}")
        .replace("strength: 3", "strength: no")
    )
    assert complaint("cats.yaml", "train.epochs=0", "foo").splitlines() == [
        "cats.yaml has 6 mistakes:",
        "  cats.yaml:11: model.name is missing (backbone: of `glmc list backbones`, or any of timm's)",
        "  cats.yaml:11: unknown key model.nam; did you mean model.name?",
        '  cats.yaml:12: method.strength must be a number, not "no"',
        '  cats.yaml:15: optim.lr must be a number, not "fast" (peak learning rate, above 0)',
        "  override train.epochs=0: train.epochs must be at least 1, not 0 (passes over the training images)",
        "  override foo: an override is written key=value, e.g. train.seed=3",
    ]


@pytest.mark.parametrize(
    "pair", [("train.seed=1", "train.seed=2"), ("optim={lr: 1, weight_decay: 0}", "optim.lr=2")], ids=["key", "section"]
)
def test_a_key_set_twice_is_refused(pair: tuple[str, str]):
    key = pair[1].partition("=")[0]
    assert (
        complaint("cats.yaml", *pair)
        == f"override {pair[1]}: {key} is set twice, first by override {pair[0]}: keep one"
    )


@pytest.mark.parametrize("content", ["", "# only a comment\n", "- a\n", "text", "3"])
def test_a_file_without_sections_is_no_recipe(content: str, shop: Path):
    (shop / "cats.yaml").write_text(content)
    assert complaint("cats.yaml") == "cats.yaml holds no recipe: write sections such as `data: {name: digits}`"


def test_an_unknown_recipe_is_told_with_the_nearest():
    assert complaint("digits_lt/gmlc").startswith(
        "there is no recipe 'digits_lt/gmlc'; did you mean digits_lt/glmc or "
    )
    assert complaint("shop") == (  # a folder
        "there is no recipe 'shop'; `glmc list recipes` names all, and a file of your own ends in .yaml"
    )
    assert complaint("dogs.yaml") == "the recipe file 'dogs.yaml' cannot be read: No such file or directory"
    assert complaint("a" * 300 + ".yaml").endswith("cannot be read: File name too long")
    assert complaint("\0.yaml") == "the recipe file '\\x00.yaml' cannot be read: embedded null byte"


def test_a_file_that_is_no_text_is_told(shop: Path):
    (shop / "cat.jpg").write_bytes(b"\xff\xd8\n\xff\xe0")
    assert complaint("cat.jpg") == "cat.jpg:1: this is not text in UTF-8: save the recipe in that encoding"
    (shop / "cat.jpg").write_bytes(b" " * (recipe.LARGEST_FILE + 1))
    assert complaint("cat.jpg").startswith(f"cat.jpg is larger than {recipe.LARGEST_FILE} bytes, which no recipe is")


def test_a_byte_order_mark_and_windows_lines_are_read(shop: Path):
    (shop / "cats.yaml").write_bytes(b"\xef\xbb\xbf" + RIGHT.replace("\n", "\r\n").encode())
    r = recipe.load("cats.yaml")
    (shop / "cats.yaml").write_text(RIGHT)
    assert r == recipe.load("cats.yaml")


def test_deep_brackets_are_told(shop: Path):
    (shop / "cats.yaml").write_text("views: " + "[" * 100_000)
    assert complaint("cats.yaml").startswith("cats.yaml:1: this cannot be read as YAML: brackets nested too deeply; ")


PIECES = [*"{}[]:,#&*!|>'\"%@`-?\n\t ~\\\0é\u2028\ufeff", "\n  ", "<<: ", "---", "!!int ", "\\ud800", '"\\UFFFFFFFF"',
          '"\\0"', "1e999", ".nan", "9" * 5000, "[" * 600, "null", "true", "-1", "0", "views", "? ",
          "%YAML 1.2\n"]  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_no_text_gives_anything_but_a_recipe_or_a_sentence(seed: int, shop: Path):
    rng = random.Random(seed)
    keys = [key.name for key in recipe.describe()]
    outcomes = set()
    for _ in range(60):
        text = RIGHT
        for _ in range(rng.randint(0, 2)):
            start = rng.randrange(len(text))
            text = text[:start] + rng.choice(PIECES) + text[start + rng.choice([0, 1, 5]) :]
        override = f"{rng.choice(keys)}={''.join(rng.choices(PIECES, k=rng.randint(0, 2)))}"
        (shop / "cats.yaml").write_bytes(text.encode())
        try:
            r = recipe.load("cats.yaml", [override] if rng.random() < 0.5 else [])
        except UserError as error:
            str(error).encode()  # can be printed
            outcomes.add("sentence")
        else:
            (shop / "again.yaml").write_text(r.to_yaml(), newline="")
            assert recipe.load("again.yaml") == r
            outcomes.add("recipe")
    assert outcomes == {"sentence", "recipe"}


# --- methods ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_parameters_read_from_the_source_are_the_constructor_s(name: str):
    module, _, cls = METHODS[name].partition(":")
    signature = inspect.signature(getattr(import_module(module), cls), eval_str=True)
    wanted = {p.name: (p.annotation, p.default) for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
    assert recipe.method_parameters(name) == wanted


MIXER = {"strength": (float, 2), "depth": (int | None, None)}
MIXER |= {"share": (Literal["box", "drawn"], "box"), "slow": (bool, False)}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("shop.methods:Mixer", MIXER),  # its own and, through **rest, its base's
        ("shop.methods:Heir", MIXER),  # no constructor of its own
        ("shop.more:Far", MIXER),  # base in another file, by the module's name
        ("shop.more:Near", {"rate": (float, inspect.Parameter.empty)}),  # base under another name
        ("shop.methods:Plain", {}),  # base is torch's
        ("shop.more:Loop", {}),
    ],
)
def test_parameters_come_from_the_bases_too(name: str, wanted: dict[str, object]):
    assert recipe.method_parameters(name) == wanted


def test_a_class_may_stand_on_one_of_ours():
    assert recipe.method_parameters("shop.more:Ours") == recipe.method_parameters("glmc")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "shop.methods:Vague",
            "the method 'shop.methods:Vague' cannot be set by a recipe: its argument rate needs an ",
        ),
        (
            "shop.methods:Computed",
            "the method 'shop.methods:Computed' cannot be set by a recipe: its argument rate needs ",
        ),
        ("shop.methods:Odd", "the method 'shop.methods:Odd' cannot be set by a recipe: its argument rate needs "),
        ("shop.methods:Bytes", "the method 'shop.methods:Bytes' cannot be set by a recipe: its argument rate needs "),
        ("shop.methods:Nobody", "the method 'shop.methods:Nobody' is not there: {0}/shop/methods.py has Base, Mixer, "),
        ("shop.broken:Mixer", "the method 'shop.broken:Mixer' cannot be read: {0}/shop/broken.py: invalid syntax"),
        ("math:Mixer", "the method 'math:Mixer' is not there: Python finds no "),
        ("__main__:Mixer", "the method '__main__:Mixer' is not there: "),
        (":Mixer", "the method ':Mixer' is not written "),
    ],
)
def test_a_class_that_cannot_be_read_is_told(name: str, sentence: str, shop: Path):
    with pytest.raises(UserError) as caught:
        recipe.method_parameters(name)
    assert str(caught.value).startswith(sentence.format(shop))


def test_reading_a_method_runs_none_of_it():
    recipe.method_parameters("shop.more:Far")
    assert "shop" not in sys.modules


def test_recipes_need_no_torch():
    code = (
        "import sys; from glmc import recipe; recipe.load('digits_lt/glmc', ['train.seed=3']); recipe.describe();"
        "recipe.method_parameters('glmc'); print([m for m in sys.modules if m.partition('.')[0] in ('torch', 'numpy')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- keys for people --------------------------------------------------------------------------------------------------


def test_every_key_is_described():
    keys = {key.name: key for key in recipe.describe()}
    assert all(key.meaning and key.kind for key in keys.values())
    assert keys["data.batch_size"][:3] == ("data.batch_size", "whole number", 64)
    assert keys["optim.lr"].default is inspect.Parameter.empty
    written = yaml.safe_load(recipe.load("cats.yaml", ["expect={top1: 1, sd: 0, seeds: 1, record: x}"]).to_yaml())
    flat = {f"{k}.{i}" for k, v in written.items() if isinstance(v, dict) and k != "views" for i in v}
    own = {f"method.{name}" for name in MIXER}
    assert flat - own == {name for name in keys if "." in name}


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (float | None, "number or null"),
        (Literal["a", "b"], "a or b"),
        (Literal["given"] | int, "given or whole number"),
        (list[float] | None, "list of numbers or null"),
        (bool | str, "true or false or text"),
    ],
)
def test_types_in_words(annotation: object, words: str):
    assert recipe.kind(annotation) == words
