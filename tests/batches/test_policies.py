"""AutoAugment, RandAugment, Cutout and their primitive operations against torchvision and PIL, image by image."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms import InterpolationMode, autoaugment
from torchvision.transforms.v2 import functional as torchvision

from glmc.batches.augment import View
from glmc.batches.colour import autocontrast, equalize, posterize, solarize
from glmc.batches.filters import sharpen
from glmc.batches.geometry import crop, cutout
from glmc.batches.policies import SIGNED, AutoAugment, Policy, RandAugment
from glmc.batches.resize import resized_crop
from glmc.errors import UserError
from glmc.random import Draws
from glmc.runs.trained import for_epochs, refuse_larger_crops

CPU = torch.device("cpu")
NOISE = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 20, 26, 3), dtype=np.uint8))
SMOOTH = resized_crop(NOISE, torch.tensor([[0.0, 0, 5, 6]]).expand(6, 4), 24) // 2 + 40
KINDS_OF_IMAGES = pytest.mark.parametrize("images", [NOISE, SMOOTH, NOISE[..., :1]], ids=["noise", "smooth", "grey"])
TORCHVISIONS = {"autocontrast": "AutoContrast"}


def far(ours, theirs):
    """Largest difference in levels; theirs [ch, H, W]."""
    return (ours.int() - theirs.permute(1, 2, 0).int()).abs().max()


def torchvisions_name(kind):
    return TORCHVISIONS.get(kind, kind.title().replace("_", ""))


def one_by_one(kind, sizes, images, fill=128):
    """The images with an operation each, as a policy carries it out."""
    policy = Policy([("identity", 0.0), *((kind, size) for size in sizes)], fill, CPU)
    return policy(images, 1 + torch.arange(len(images), dtype=torch.uint8)[:, None] % len(sizes))


@KINDS_OF_IMAGES
@pytest.mark.parametrize("kind", ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"])
def test_moved_pixels_are_torchvisions(kind, images):
    sizes = [0.0, 0.083, -0.171, 0.2937, -0.05, 0.131]  # not halfway between two pixels
    sizes = [100 * size for size in sizes] if kind == "rotate" else sizes
    width, height = images.shape[2], images.shape[1]
    for image, size, got in zip(images, sizes, one_by_one(kind, sizes, images), strict=True):
        magnitude = size * {"translate_x": width, "translate_y": height}.get(kind, 1)
        wanted = autoaugment._apply_op(
            image.permute(2, 0, 1), torchvisions_name(kind), magnitude, InterpolationMode.NEAREST, [128.0]
        )
        assert far(got, wanted) == 0


@KINDS_OF_IMAGES
@pytest.mark.parametrize("kind", ["brightness", "contrast", "color", "sharpness"])
def test_enhancers_are_pils_and_torchvisions(kind, images):
    sizes = [0.0, 0.9, -0.9, 0.31, -0.45, 0.6]
    for image, size, got in zip(images, sizes, one_by_one(kind, sizes, images), strict=True):
        picture = Image.fromarray(image.numpy().squeeze())
        theirs = np.array(getattr(ImageEnhance, kind.title())(picture).enhance(1 + size)).reshape(image.shape)
        assert torch.equal(got, torch.from_numpy(theirs))
        adjust = getattr(torchvision, f"adjust_{'saturation' if kind == 'color' else kind}")
        assert far(got, adjust(image.permute(2, 0, 1), 1 + size)) <= 1  # it cuts its grey off


@KINDS_OF_IMAGES
def test_levels_are_torchvisions(images):
    images = images.clone()
    images[1, ..., 0] = 7  # a channel of one level
    chw = images.permute(0, 3, 1, 2)
    bits, thresholds = torch.tensor([8, 4, 5, 6, 7, 0]), torch.tensor([0.0, 255, 28.3, 100, 254, 170])
    stretched = autocontrast(images)
    for row, image in enumerate(chw):
        assert far(posterize(images, bits)[row], torchvision.posterize(image, bits[row].item())) == 0
        assert far(solarize(images, thresholds)[row], torchvision.solarize(image, thresholds[row].item())) == 0
        assert far(stretched[row], torchvision.autocontrast(image)) <= 1  # it may lose a level to rounding
        assert far(equalize(images)[row], torchvision.equalize(image)) == 0
        picture = ImageOps.equalize(Image.fromarray(images[row].numpy().squeeze()))
        assert np.array_equal(equalize(images)[row].squeeze(), picture)
    assert (one_by_one("invert", [0.0], images) == 255 - images).all()
    low, high = (each[:, None, None].long() for each in (images.amin((1, 2)), images.amax((1, 2))))
    wanted = (images.long() - low) * 255 // (high - low).clamp(min=1)
    assert torch.equal(stretched.long(), torch.where(high > low, wanted, images.long()))


def test_small_images_can_be_sharpened_and_equalized():
    dot = NOISE[:, :1, :1]
    assert torch.equal(sharpen(dot, torch.full((6,), 1.9)), dot)
    assert torch.equal(equalize(dot), dot)


@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_autoaugment_has_torchvisions_policies(name):
    theirs, lines = autoaugment.AutoAugment(autoaugment.AutoAugmentPolicy(name)), AutoAugment(name, 0, CPU).lines
    space = theirs._augmentation_space(10, (100, 100))
    settings = iter(AutoAugment(name, 0, CPU).settings[1:])
    for line, wanted in zip(lines, theirs._get_policies(theirs.policy), strict=True):
        for (kind, p, level), (their_kind, their_p, their_level) in zip(line, wanted, strict=True):
            assert (torchvisions_name(kind), p, level) == (their_kind, their_p, their_level)
            check_settings(kind, (next(settings), next(settings)), *space[their_kind], level)
    assert not list(settings)


def check_settings(kind, settings, magnitudes, signed, level):
    """The two settings of a kind against torchvision's magnitudes for images of 100 x 100."""
    assert signed == (kind in SIGNED)
    size = float(magnitudes[level]) if magnitudes.ndim else 0.0
    size *= 0.01 if kind.startswith("translate") else 1
    assert [name for name, _ in settings] == [kind, kind]
    np.testing.assert_allclose([amount for _, amount in settings], [size, -size if signed else size], rtol=1e-5)


@pytest.mark.parametrize("m", [0, 9, 30])
def test_randaugment_has_torchvisions_space(m):
    space = autoaugment.RandAugment()._augmentation_space(31, (100, 100))
    settings = RandAugment(2, m, 0, CPU).settings
    assert sorted(space) == sorted(torchvisions_name(kind) for kind, _ in settings[::2])
    for pair in zip(settings[::2], settings[1::2], strict=True):
        check_settings(pair[0][0], pair, *space[torchvisions_name(pair[0][0])], m)


def test_autoaugment_draws_lines_directions_and_probabilities():
    policy = AutoAugment("cifar10", 0, CPU)
    drawn = policy.draw(Draws(0, "a"), 100_000)  # [N, 2]
    share = np.bincount(drawn.flatten(), minlength=101)[1:].reshape(25, 2, 2) / 4000
    for line, counted in zip(policy.lines, share, strict=True):
        for (_, p, _), ways in zip(line, counted, strict=True):
            np.testing.assert_allclose(ways, p / 2, atol=0.04)  # 4000 images a line: five standard deviations
    first, second = drawn.T.astype(int)
    both = (first > 0) & (second > 0)
    assert ((first[both] - 1) // 4 == (second[both] - 1) // 4).all()  # of the same line
    chosen = RandAugment(3, 9, 0, CPU).draw(Draws(0, "r"), 20_000)
    np.testing.assert_allclose(np.bincount(chosen.flatten()) / 60_000, 1 / 28, atol=0.004)
    some = RandAugment(3, 9, 0, CPU, p=0.25)
    unchanged = (some.draw(Draws(0, "r"), 20_000) == some.settings.index(("identity", 0.0))).all(1)
    np.testing.assert_allclose(unchanged.mean(), 0.75, atol=0.01)


def test_randaugment_may_grow_with_the_length_of_a_run():
    plain = ["flip", {"cutout": 4}]
    drawn = {"n": 1, "m": 9, "p": 0.8, "growing": [15, 40], "fill": 0}
    assert for_epochs(15, [*plain, {"randaugment": drawn}]) == plain
    for epochs, p in ((20, 0.16), (40, 0.8), (200, 0.8)):
        *others, last = for_epochs(epochs, [*plain, {"randaugment": drawn}])
        assert others == plain
        assert last == {"randaugment": {"n": 1, "m": 9, "p": pytest.approx(p), "fill": 0}}


@pytest.mark.parametrize("name", ["autoaugment", "randaugment"])
def test_a_policy_does_the_operations_of_each_image_in_order(name, monkeypatch):
    value = {"policy": "imagenet", "fill": 9} if name == "autoaugment" else {"n": 3, "m": 20, "fill": 9}
    view = View([{name: value}], [0.0] * 3, [1.0] * 3, CPU)
    images, policy = NOISE.repeat(20, 1, 1, 1), view.policies[name]
    table = view.draw(Draws(0, "v"), np.full(120, 20), np.full(120, 26))
    assert table[name].dtype == np.uint8
    wanted = images.clone()
    for row, settings in enumerate(table[name].tolist()):
        for setting in settings:
            kind, size = policy.settings[setting]
            wanted[row] = one_by_one(kind, [size], wanted[row : row + 1], fill=9)[0]
    drawn = {name: torch.from_numpy(table[name])}
    out = view(images, drawn)
    assert torch.equal((out * 255).round().to(torch.uint8), wanted.permute(0, 3, 1, 2))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # as on a GPU: everything at once
    assert torch.equal(view(images, drawn), out)


def test_cutout_is_a_black_square_clipped_at_the_border():
    centres = torch.tensor([[0, 0], [19, 25], [10, 10], [3, 25], [19, 12], [8, 2]])
    images = NOISE.clamp(min=1)
    for length in (6, 7, 60):
        for image, (row, column), got in zip(images, centres.tolist(), cutout(images, centres, length), strict=True):
            top, left = row - length // 2, column - length // 2
            wanted = image.clone()
            wanted[max(top, 0) : top + length, max(left, 0) : left + length] = 0
            assert torch.equal(got, wanted)
    view = View([{"resized_crop": {"size": 8, "scale": [0.5, 1.0]}}, {"cutout": 4}], [0.5], [0.5], CPU)
    drawn = view.draw(Draws(0, "v"), np.full(2000, 20), np.full(2000, 26))["cutout"]
    assert (np.unique(drawn) == np.arange(8)).all()  # middles lie in what has been cut out


def test_a_crop_may_reflect():
    shift = torch.tensor([[0, 0], [8, 8], [4, 4], [0, 8], [3, 5], [7, 1]])
    out = crop(NOISE, shift, 4, "reflect")
    for image, (top, left), got in zip(NOISE.numpy(), shift.tolist(), out.numpy(), strict=True):
        framed = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
        assert (framed[top : top + 20, left : left + 26] == got).all()


def test_a_border_that_reflects_is_narrower_than_the_image():
    views = [{"center_crop": 8}, {"crop": {"border": 7, "padding": "reflect"}}]
    refuse_larger_crops("train", views, 20)
    with pytest.raises(UserError, match="crop reflects 20 pixels of an image with 20 on a side"):
        refuse_larger_crops("train", [{"crop": {"border": 20, "padding": "reflect"}}], 20)
    with pytest.raises(UserError, match="center_crop=9 is larger than the image"):
        refuse_larger_crops("train", [{"center_crop": 8}, {"resized_crop": {"size": 8}}, {"center_crop": 9}], 20)
