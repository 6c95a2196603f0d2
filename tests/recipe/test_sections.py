"""What no type can say: values that do not go together, and operations of a view."""

from collections.abc import Callable

import pytest

from glmc.recipe import load
from glmc.recipe.views import FORMS

OVERRIDES = {
    "data.channels=true": "data.channels must be 1 (grey), 3 (colour) or null (as the images are), not true",
    "model.pretrained=no": 'model.pretrained must be true, false or a file of weights, not "no"',
    "train.schedule=step": "train.schedule is step, which needs train.milestones, e.g. [0.8, 0.9]",
    "train.milestones=[0.5]": "train.milestones has no effect with train.schedule=cosine: set it to [], or use step",
    "train={epochs: 1, schedule: step, milestones: [0.9, 0.8]}": "train.milestones must ascend, not [0.9, 0.8]",
    "optim={lr: 1, weight_decay: 0, sharpness: {adaptive: true, direction: random}}": "optim.sharpness.adaptive is "
    "for a step uphill: set it to false, or direction to uphill",
    "optim={lr: 1, weight_decay: 0, nesterov: true, momentum: 0}": "optim.nesterov needs optim.momentum above 0: "
    "raise it, or set nesterov to false",
    "optim={lr: 1, weight_decay: 0, nesterov: true, name: adamw}": "optim.nesterov is for optim.name=sgd only, "
    "and this is adamw: set it to false",
    "data={name: digits, n_max: 9}": "data.n_max has no effect without data.imbalance: give both, or set n_max to null",
    "data.mean=[0.5]": "data.mean stands alone: give data.mean and data.std, or neither",
    "data={name: a, mean: [0.5, 0.5], std: [1, 1]}": "data.mean must have one value per channel (1 or 3), not 2",
    "data={name: a, channels: 3, mean: [0.5], std: [1]}": "data.mean must have one value per channel (3), not 1",
    "views={train: []}": "views must hold test, a list of operations, e.g. test: []",
    "views.train=[flop]": f'views.train[0] must be {FORMS}, not "flop"',
    "views.train=[{crop: 1, flip: 2}]": f'views.train[0] must be {FORMS}, not {{"crop": 1, "flip": 2}}',
    "views.train=[{crop: {border: 1, padding: white}}]": 'views.train[0].crop.padding must be "black" or "reflect", '
    'not "white"',
    "views.train=[{autoaugment: cifar10}]": "views.train[0].autoaugment must be a group of keys, not \"cifar10\"",
    "views.train=[{randaugment: {m: 31}}]": "views.train[0].randaugment.m must be at most 30, not 31",
    "views.train=[{randaugment: {growing: [40, 15]}}]": "views.train[0].randaugment.growing must be two numbers, the "
    "smaller first, e.g. [15, 40]",
    "views.train=[{cutout: 1.5}]": "views.train[0].cutout must be a whole number of pixels, or a part of data.size up "
    "to 1, not 1.5",
    "views.train=[flip, flip]": "views.train holds flip 2 times: once is enough",
    "views.train=[{resized_crop: {size: 3, scale: [1, 0.5]}}]": "views.train[0].resized_crop.scale must be two "
    "numbers, the smaller first, e.g. [0.08, 1.0]",
    "views.train=[{blur: {sigma: [2, 1]}}]": "views.train[0].blur.sigma must be two numbers, the smaller first, e.g. "
    "[0.1, 2.0]",
    "views.train=[{blur: {sigma: [0, 1]}}]": "views.train[0].blur.sigma[0] must be above 0, not 0",
    "views.train=[{blur: {}}, {blur: {p: 0.5}}]": "views.train holds blur 2 times: once is enough",
    "views.train=[flip, {grayscale: 2}]": "views.train[1].grayscale must be at most 1, not 2",
    "views.train=[{grayscale: {p: 0.2}}]": 'views.train[0].grayscale must be a number, not {"p": 0.2}',
    "views.train=[{color_jitter: {contrast: 0, saturation: 0}}]": "views.train[0].color_jitter.brightness is missing",
    "views.train=[{color_jitter: {brightness: 1, contrast: 1, saturation: 1, hue: 0.6}}]": "views.train[0]."
    "color_jitter.hue must be at most 0.5, not 0.6",
    "views.train=[{color_jitter: {brightness: 1, contrast: 1, saturation: 1, huw: 0.1}}]": "unknown key views.train[0]."
    "color_jitter.huw; did you mean views.train[0].color_jitter.hue?",
    "views.test=[{center_crop: 1.5}]": "views.test[0].center_crop must be a whole number of pixels, or a part of "
    "data.size up to 1, not 1.5",
    "views.test=[{blur: {}}]": "views.test may hold center_crop only: the other operations are random, and tests must "
    "not be",
    "train={epochs: 20, schedule: paco, warmup: 0.1}": "train.warmup has no effect with train.schedule=paco, which has "
    "its own: set it to 0",
    "views.test=[flip]": "views.test may hold center_crop only: the other operations are random, and tests must not be",
}  # fmt: skip


@pytest.mark.parametrize(("override", "sentence"), OVERRIDES.items())
def test_what_does_not_go_together_is_told_in_a_sentence(override: str, sentence: str, said_of: Callable[[str], str]):
    assert said_of(override) == sentence


def test_crops_follow_the_size_unless_they_are_in_pixels():
    views = (
        "{train: [{resized_crop: {}}, flip, {cutout: 0.5}], test: [{center_crop: 0.875}], look: [{center_crop: 20}]}"
    )
    settled = load("digits_lt/ce", [f"views={views}"]).settle(
        {"size": 64, "channels": 1, "mean": [0.5], "std": [0.5]}, {"precision": "float32"}
    )
    assert settled.views == {
        "train": [{"resized_crop": {"size": 64, "scale": [0.08, 1.0]}}, "flip", {"cutout": 32}],
        "test": [{"center_crop": 56}],
        "look": [{"center_crop": 20}],
    }


def test_operations_are_completed_with_their_defaults():
    jitter = "{color_jitter: {brightness: 0.4, contrast: 0.4, saturation: 0.4}}"
    policies = "{crop: {border: 4}}, {autoaugment: {policy: imagenet}}, {randaugment: {m: 12}}"
    views = load("digits_lt/ce", [f"views.train=[{jitter}, {{grayscale: 0.2}}, {{blur: {{}}}}, {policies}]"]).views
    assert views["train"] == [
        {"color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.0, "p": 1.0}},
        {"grayscale": 0.2},
        {"blur": {"sigma": [0.1, 2.0], "p": 1.0}},
        {"crop": {"border": 4, "padding": "black"}},
        {"autoaugment": {"policy": "imagenet", "fill": 128}},
        {"randaugment": {"n": 2, "m": 12, "p": 1.0, "growing": None, "fill": 128}},
    ]
