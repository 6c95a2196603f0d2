"""Constructors' keywords, read without running the file."""

import inspect
import sys
from importlib import import_module
from pathlib import Path
from typing import Literal

import pytest

from glmc.errors import UserError
from glmc.methods import METHODS
from glmc.recipe.choice import method_parameters

pytestmark = pytest.mark.usefixtures("shop")


@pytest.mark.parametrize("name", METHODS)
def test_parameters_read_from_the_source_are_the_constructor_s(name: str):
    module, _, cls = METHODS[name].partition(":")
    signature = inspect.signature(getattr(import_module(module), cls), eval_str=True)
    wanted = {p.name: (p.annotation, p.default) for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
    assert method_parameters(name) == wanted


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
    assert method_parameters(name) == wanted


def test_a_class_may_stand_on_one_of_ours():
    assert method_parameters("shop.more:Ours") == method_parameters("glmc")


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
        method_parameters(name)
    assert str(caught.value).startswith(sentence.format(shop))


def test_reading_a_method_runs_none_of_it():
    method_parameters("shop.more:Far")
    assert "shop" not in sys.modules
