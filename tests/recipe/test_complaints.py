"""Wrong keys and values, told with their meaning and the nearest right key."""

from collections.abc import Callable
from pathlib import Path

import pytest

from glmc.recipe.views import FORMS

Complaint = Callable[..., str]

OVERRIDES = {
    "train.sede=3": "unknown key train.sede; did you mean train.seed?",
    "seed=3": "unknown key seed; did you mean train.seed=3?",
    "batch=16": "unknown key batch; did you mean data.batch_size=16?",
    "pretrained=false": "unknown key pretrained; did you mean model.pretrained=false?",
    "model=resnet18": 'model must be a group of keys, not "resnet18"; did you mean model.name=resnet18?',
    "model.adapter.rank=4": "unknown key model.adapter.rank (few weights that learn in a backbone that is frozen else, "
    "{name, width}; null: none)",
    "model.backbone=x": "unknown key model.backbone; did you mean model.name?",
    "trian.epochs=3": "unknown key trian; did you mean train?",
    "optim.zzz=3": "unknown key optim.zzz; optim has name, lr, backbone_lr, momentum, nesterov, weight_decay, clip, "
    "sharpness",
    "zzz=3": "unknown key zzz; a recipe has name, parent, starts_from, then, published, expect, data, views, model, "
    "method, loss, mixture, optim, train, eval",
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
    "data.channels=2": "data.channels must be 1 or 3, not 2 (1 grey, 3 colour; null: as the images are)",
    "data.name=''": 'data.name must be a text that is not empty, not "" (data set: of `glmc list datasets`)',
    "method.share=bix": 'method.share must be "box" or "drawn", not "bix"',
    "method.slow=1": "method.slow must be true or false, not 1",
    "method.depth=1.5": "method.depth must be a whole number, not 1.5",
    "method=ce": 'method must be a group of keys, not "ce"; did you mean method.name=ce?',
    "optim=null": "optim must be a group of keys, not null",
    "method.name=3": "method.name must be text, not 3, which in quotes would be text (of `glmc list methods`, losses "
    'or mixtures, or a class as "package.module:Class")',
    "method={}": "method.name is missing (of `glmc list methods`, losses or mixtures, "
    'or a class as "package.module:Class")',
    "train={epochs: 1, schedule: step, milestones: [0.5, 1]}": "train.milestones[1] must be below 1, not 1 "
    "(where a step schedule steps, ascending fractions of the epochs, in (0, 1))",
    "views.train=flip": 'views.train must be a list, not "flip" (augmentations by name, each a list of '
    f"{FORMS}; train and test must be there)",
    "views.train=[{crop: -1}]": "views.train[0].crop must be at least 0, not -1",
    "views.train=[{crop: {border: 1, paddin: black}}]": "unknown key views.train[0].crop.paddin; did you mean "
    "views.train[0].crop.padding?",
    "views.train=[{resized_crop: {size: 3, scael: 1}}]": "unknown key views.train[0].resized_crop.scael; "
    "did you mean views.train[0].resized_crop.scale?",
}  # fmt: skip


@pytest.mark.parametrize(("override", "sentence"), OVERRIDES.items())
def test_a_wrong_key_or_value_is_told_in_a_sentence(override: str, sentence: str, said_of: Callable[[str], str]):
    assert said_of(override) == sentence


def test_all_mistakes_are_told_together_in_reading_order(complaint: Complaint, shop: Path):
    text = (shop / "cats.yaml").read_text()
    (shop / "cats.yaml").write_text(text.replace("lr: 1e-1", "lr: fast").replace("name: resnet32}", "nam: x}"))
    assert complaint("cats.yaml", "train.epochs=0", "foo").splitlines() == [
        "cats.yaml has 5 mistakes:",
        "  cats.yaml:11: model.name is missing (backbone: of `glmc list backbones`, or any of timm's)",
        "  cats.yaml:11: unknown key model.nam; did you mean model.name?",
        '  cats.yaml:15: optim.lr must be a number, not "fast" (peak learning rate, above 0)',
        "  override train.epochs=0: train.epochs must be at least 1, not 0 (passes over the training images)",
        "  override foo: an override is written key=value, e.g. train.seed=3",
    ]


def test_settings_are_told_together_once_everything_else_is_right(complaint: Complaint):
    assert complaint("cats.yaml", "method.strength=no", "loss.smooth=1").splitlines() == [
        "cats.yaml has 2 mistakes:",
        '  override method.strength=no: method.strength must be a number, not "no"',
        "  override loss.smooth=1: unknown key loss.smooth; did you mean loss.smoothing?",
    ]


def test_infinite_numbers_are_read_and_refused(complaint: Complaint):
    assert complaint("cats.yaml", "optim.clip=-.inf").startswith(
        "override optim.clip=-.inf: optim.clip must be a finite number, not -Infinity ("
    )
