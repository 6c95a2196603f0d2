"""Method, loss and mixture of a recipe: what a class may be told, and what is said of one that cannot be."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from glmc import recipe
from glmc.errors import UserError
from glmc.recipe.choice import TABLES, check_name, settings

pytestmark = pytest.mark.usefixtures("shop")

MIXER = {"strength": (float, 2), "depth": (int | None, None)}
MIXER |= {"share": (Literal["box", "drawn"], "box"), "slow": (bool, False)}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("shop.methods:Mixer", MIXER),  # its own and, through **rest, its base's
        ("shop.methods:Heir", MIXER),  # no constructor of its own
        ("shop.methods:Needy", {"rate": (float, inspect.Parameter.empty)}),
    ],
)
def test_settings_come_from_the_bases_too(name: str, wanted: dict[str, object]):
    assert settings("method", name) == wanted


@pytest.mark.parametrize(("section", "name"), [(section, name) for section in TABLES for name in TABLES[section]])
def test_every_class_of_ours_can_be_set_and_has_defaults(section: str, name: str):
    assert all(default is not inspect.Parameter.empty for _, default in settings(section, name).values())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "shop.methods:Vague",
            "the method 'shop.methods:Vague' cannot be set by a recipe: its argument rate has no type",
        ),
        ("shop.methods:Odd", "the method 'shop.methods:Odd' cannot be set by a recipe: its argument rate is a "),
        ("shop.methods:Nobody", "the method 'shop.methods:Nobody' is not there: shop.methods has no subclass of "),
        ("shop.methods:NoMethod", "the method 'shop.methods:NoMethod' is not there: shop.methods has no subclass of "),
        ("shop.broken:Mixer", "the method 'shop.broken:Mixer' cannot be imported: SyntaxError: "),
        ("shop.more:Mixer", "the method 'shop.more:Mixer' cannot be imported: it needs no_such_library"),
        ("shop.nowhere:Mixer", "the method 'shop.nowhere:Mixer' is not there: Python finds no module shop.nowhere; "),
        (":Mixer", "the method ':Mixer' is not written "),
    ],
)
def test_a_class_that_cannot_be_had_is_told(name: str, sentence: str):
    with pytest.raises(UserError) as caught:
        settings("method", name)
    assert str(caught.value).startswith(sentence)


def test_a_loss_within_a_method_is_a_section_of_its_own(complaint):
    r = recipe.load("cats.yaml", ['method={name: "shop.methods:TwoHeads", other: {name: logit_adjusted}}'])
    assert r.method.params["other"] == {"name": "logit_adjusted", "tau": 1.0}
    assert r.override("method.other.tau=0.5").method.params["other"]["tau"] == 0.5
    for value, sentence in {
        "{name: logit_adjusted, taw: 1}": "unknown key method.other.taw; did you mean method.other.tau?",
        "{name: logit_adjust}": "there is no loss 'logit_adjust'; did you mean logit_adjusted?",
        "3": "method.other must be a group of keys, e.g. {name: cross_entropy}",
    }.items():
        assert sentence in complaint("cats.yaml", f'method={{name: "shop.methods:TwoHeads", other: {value}}}')


def test_a_loss_within_a_loss_is_complete_named_and_checked(complaint):
    r = recipe.load("cats.yaml", ["method={name: supervised}", "loss={name: deferred, loss: {name: ldam}}"])
    assert r.loss.params["loss"] == {"name": "ldam", "margin": 0.5, "scale": 30.0}
    assert r.system == "deferred(ldam)"
    for inner, sentence in {
        "{name: ldam, scale: 0.0}": "loss.loss.scale must be above 0",
        "{name: class_weighted}": "loss.loss is ClassWeighted, which cannot be re-weighted",
    }.items():
        assert sentence in complaint("cats.yaml", f"loss={{name: deferred, loss: {inner}}}")


def test_loss_and_mixture_that_are_not_named_are_the_usual_ones():
    plain = recipe.load("cats.yaml", ["loss.smoothing=0.1"])
    assert (plain.loss.params, plain.system) == ({"smoothing": 0.1}, "shop.methods:Mixer + cross_entropy")
    assert recipe.load("cats.yaml", ["method={name: glmc}"]).system == "glmc + class_weighted + mixup_cutmix"
    cut = recipe.load("cats.yaml", ["method={name: supervised}", "mixture.name=cutmix"])
    assert cut.system == "cross_entropy + cutmix"


def test_loss_and_mixture_are_checked_like_the_method(complaint):
    assert "did you mean loss.tau?" in complaint("cats.yaml", "loss={name: logit_adjusted, taw: 1}")
    assert "there is no mixture 'mixupp'; did you mean mixup?" in complaint("cats.yaml", "mixture.name=mixupp")
    assert 'mixture.alpha must be a number, not "much"' in complaint("cats.yaml", "mixture={name: mixup, alpha: much}")


def test_names_and_keys_are_checked_before_torch_is_loaded(shop: Path):
    code = (
        "import sys; from glmc import recipe; from glmc.errors import UserError\n"
        "for words in (['train.sede=3'], ['loss.name=no'], ['optim.lr=x']):\n"
        "    try: recipe.load('digits_lt/glmc', words)\n"
        "    except UserError: pass\n"
        "recipe.describe(); recipe.packaged.headline('digits_lt/ce')\n"
        "print([m for m in sys.modules if m.partition('.')[0] in ('torch', 'numpy')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    check_name("method", "somewhere.else:Method")  # is looked for only when everything else is right


def test_values_out_of_range_are_told_at_their_place(complaint):
    said = complaint("cats.yaml", "loss={name: cross_entropy, smoothing: 1.5}")
    assert said.endswith("loss.smoothing must lie in [0, 1), not 1.5")
    assert said.startswith("override loss=")
    nested = complaint("cats.yaml", "method={name: glmc, conventional: {name: cross_entropy, smoothing: -1}}")
    assert "method.conventional.smoothing must lie in [0, 1), not -1.0" in nested
    assert "mixture.sampling must lie in [-10, 10]" in complaint("cats.yaml", "mixture={name: mixup, sampling: 50}")


def test_settings_that_nobody_chose_do_not_stand_in_the_way_of_another_name():
    whole = recipe.load("digits_lt/ce")  # complete: smoothing is 0
    assert whole.override("loss.name=logit_adjusted").loss.params == {"tau": 1.0}
    with pytest.raises(UserError, match="the loss logit_adjusted has no smoothing"):
        whole.override("loss.smoothing=0.1").override("loss.name=logit_adjusted")
