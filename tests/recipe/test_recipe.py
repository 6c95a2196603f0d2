"""Recipes: what is read, what is refused and in which words."""

import inspect
import random
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import yaml
from pydantic import ValidationError

from glmc import recipe
from glmc.errors import UserError
from glmc.recipe import choice

Complaint = Callable[..., str]
pytestmark = pytest.mark.usefixtures("shop")


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


def test_written_numbers_are_numbers_for_every_reader():
    written = recipe.load("cats.yaml", ["optim.weight_decay=5e-3", "optim.lr=1e-5"]).to_yaml()
    assert "weight_decay: 0.005\n" in written
    assert yaml.safe_load(written)["optim"]["lr"] == 1e-5  # PyYAML needs the dot of 1.0e-05
    assert "  train: [{crop: 4}, flip, {resized_crop: {size: 32, scale: [0.08, 1.0]}}]\n" in written
    order = [line.partition(":")[0] for line in written.splitlines() if line[0].isalpha()]
    assert order == [
        "name",
        "parent",
        "starts_from",
        "then",
        "published",
        "expect",
        "data",
        "views",
        "model",
        "method",
        "loss",
        "mixture",
        "optim",
        "train",
        "eval",
    ]


def test_a_recipe_is_read_from_text_too():
    r = recipe.load("cats.yaml")
    assert recipe.parse(r.to_yaml()) == r
    assert recipe.parse(Path("cats.yaml").read_text(), ["train.seed=3"], name="cats") == r.override("train.seed=3")
    with pytest.raises(UserError, match=r"^weights\.json:1: this cannot be read as YAML: "):
        recipe.parse("]", label="weights.json")


def test_a_stored_name_outlives_the_file_name(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text(recipe.load("cats.yaml").to_yaml())
    assert recipe.load(str(tmp_path / "recipe.yaml")).name == "cats"


def test_a_whole_section_is_replaced_by_one_override():
    r = recipe.load("digits_lt/glmc", ["method={name: supervised}"])
    assert (r.method.name, r.method.params["sampling"]) == ("supervised", 0.0)


def test_override_of_a_loaded_recipe():
    r = recipe.load("cats.yaml")
    again = r.override("train.seed=3", "method.strength=1")
    assert (again.train.seed, again.method.params["strength"], r.train.seed) == (3, 1.0, 0)
    assert (again.name, again.override("train.seed=0", "method.strength=3").model_dump()) == (r.name, r.model_dump())
    assert r.override("train.seed=3").about == r.about
    changed = recipe.parse(again.to_yaml(), ["train.epochs=4"])
    assert changed.about == "cats with other values of method.strength, train.epochs"
    assert changed.override("name=dogs").about == "dogs"
    with pytest.raises(
        UserError, match=r"^override train\.sede=3: unknown key train\.sede; did you mean train\.seed\?$"
    ):
        r.override("train.sede=3")


# --- what is refused --------------------------------------------------------------------------------------------------

OVERRIDES = {
    "method.strenth=3": "unknown key method.strenth; did you mean method.strength?",
    "method.params=3": "unknown key method.params; method has name, strength, depth, share, slow",
    "method.name=glmcc": "there is no method 'glmcc'; did you mean glmc? `glmc list methods` names all",
    "method.name=xyz": "there is no method 'xyz'; a class of your own is written \"package.module:Class\"; "
    "`glmc list methods` names all",
    "method.name=shop.method:Mixer": "the method 'shop.method:Mixer' is not there: Python finds no module shop.method; "
    "give the folder that holds it with --code DIR",
    "method.name='shop.methods:'": "the method 'shop.methods:' is not written \"package.module:Class\"",
    "method.name=supervised": "the method supervised has no strength; to leave all of the recipe's own settings "
    "behind, write method={name: supervised}",
    'method={name: "shop.methods:Needy"}': "method.rate is missing: the method has no default for it",
    'method={name: "shop.methods:IllTyped"}': "method.rate must be a whole number, not 0.5",
}  # fmt: skip


@pytest.mark.parametrize(("override", "sentence"), OVERRIDES.items())
def test_a_wrong_method_is_told_in_a_sentence(override: str, sentence: str, said_of: Callable[[str], str]):
    assert said_of(override) == sentence


@pytest.mark.parametrize("content", ["", "# only a comment\n", "- a\n", "text", "3"])
def test_a_file_without_sections_is_no_recipe(complaint: Complaint, content: str, shop: Path):
    (shop / "cats.yaml").write_text(content)
    assert complaint("cats.yaml") == "cats.yaml holds no recipe: write sections such as `data: {name: digits}`"


def test_an_unknown_recipe_is_told_with_the_nearest(complaint: Complaint):
    assert complaint("digits_lt/gmlc").startswith(
        "there is no recipe or folder 'digits_lt/gmlc'; did you mean digits_lt/glmc or "
    )
    assert complaint("shop") == (  # a folder
        "there is no recipe or folder 'shop'; `glmc list recipes` names all, and a file of your own ends in .yaml"
    )
    assert (
        complaint("dogs.yaml")
        == "the recipe file 'dogs.yaml' cannot be read: No such file or directory; give the recipe's own file"
    )
    assert complaint("a" * 300 + ".yaml").endswith("cannot be read: File name too long; give the recipe's own file")
    assert (
        complaint("\0.yaml")
        == "the recipe file '\\x00.yaml' cannot be read: embedded null byte; give the recipe's own file"
    )


PIECES = [*"{}[]:,#&*!|>'\"%@`-?\n\t ~\\\0é\u2028\ufeff", "\n  ", "<<: ", "---", "!!int ", "\\ud800", '"\\UFFFFFFFF"',
          '"\\0"', "1e999", ".nan", "9" * 5000, "[" * 600, "null", "true", "-1", "0", "views", "? ",
          "%YAML 1.2\n"]  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_no_text_gives_anything_but_a_recipe_or_a_sentence(seed: int, shop: Path):
    rng = random.Random(seed)
    keys = [key.name for key in recipe.describe()]
    right, outcomes = (shop / "cats.yaml").read_text(), set()
    for _ in range(60):
        text = right
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


# --- what makes another recipe ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("override", ["train.track=[tensorboard]", "data.root=x", "train.seed=3", "name=x"])
def test_harmless_keys_and_the_seed_make_no_other_recipe(override):
    first = recipe.load("digits_lt/ce")
    other = first.override(override)
    assert other != first
    assert recipe.essence(other.model_dump()) == recipe.essence(first.model_dump())
    assert not recipe.changed([override])


def test_other_keys_make_another_recipe():
    first = recipe.load("digits_lt/ce")
    essence = recipe.essence(first.override("optim.lr=0.5").model_dump())
    assert recipe.essence(first.model_dump()) | {"optim.lr": 0.5} == essence
    assert recipe.changed(["train.seed=3", "optim.lr=0.5"])
    assert not {"published", "published.top1", "expect", "expect.top1"} & set(essence)


# --- keys for people --------------------------------------------------------------------------------------------------


def test_every_key_is_described():
    keys = {key.name: key for key in recipe.describe()}
    assert all(key.meaning and key.kind for key in keys.values())
    assert keys["data.batch_size"][:3] == ("data.batch_size", "whole number, at least 1", 64)
    assert keys["optim.lr"].default is inspect.Parameter.empty
    written = yaml.safe_load(recipe.load("cats.yaml", ["expect={top1: 1, sd: 0, seeds: 1, record: x}"]).to_yaml())
    flat = {f"{k}.{i}" for k, v in written.items() if isinstance(v, dict) and k != "views" for i in v}
    own = {f"method.{name}" for name in choice.settings("method", "shop.methods:Mixer")}
    own |= {f"loss.{name}" for name in choice.settings("loss", "cross_entropy")}
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
