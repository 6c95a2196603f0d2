"""Batched augmentation against the same thing done slowly, image by image, with PIL and numpy."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torchvision.transforms.v2 import functional as torchvision

from glmc.batches.augment import View
from glmc.batches.colour import (
    BRIGHTNESS,
    CONTRAST,
    SATURATION,
    blend,
    color_jitter,
    grayscale,
    random_jitter,
    shift_hue,
)
from glmc.batches.filters import blur
from glmc.batches.geometry import center_crop, crop, flip, random_boxes
from glmc.batches.pixels import normalise
from glmc.batches.resize import resized_crop
from glmc.random import Draws

CPU = torch.device("cpu")
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 20, 20, 3), dtype=np.uint8))


def test_crop_is_a_window_over_a_black_border():
    shift = torch.tensor([[0, 0], [8, 8], [4, 4], [0, 8], [3, 5], [7, 1]])
    out = crop(IMAGES, shift, 4)
    for image, (top, left), got in zip(IMAGES.numpy(), shift.tolist(), out.numpy(), strict=True):
        framed = np.pad(image, ((4, 4), (4, 4), (0, 0)))
        assert (framed[top : top + 20, left : left + 20] == got).all()
    assert torch.equal(out[2], IMAGES[2])


def test_flip_mirrors_only_the_chosen_images():
    out = flip(IMAGES, torch.tensor([True, False, True, False, False, True]))
    for index, mirrored in enumerate([True, False, True, False, False, True]):
        assert np.array_equal(out[index], IMAGES[index].numpy()[:, ::-1] if mirrored else IMAGES[index].numpy())


def sides(height, width, images=5000):
    return np.full(images, height), np.full(images, width)


def test_boxes_stay_inside_and_cover_the_scale():
    boxes = random_boxes(Draws(0, "boxes"), *sides(32, 32), (0.08, 1.0))
    top, left, high, wide = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + high <= 32).all()
    assert (left + wide <= 32).all()
    area = high * wide / 32**2
    assert 0.05 < area.min() < 0.1
    assert area.max() > 0.9
    assert 0.4 < area.mean() < 0.6


def test_each_image_has_boxes_of_its_own_size():
    heights, widths = np.tile([375, 500, 60], 1000), np.tile([500, 200, 60], 1000)
    boxes = random_boxes(Draws(0, "boxes"), heights, widths, (0.08, 1.0))
    top, left, high, wide = boxes.T
    assert (top + high <= heights).all()
    assert (left + wide <= widths).all()
    area = (high * wide / (heights * widths)).reshape(-1, 3)
    assert (area.mean(0) > [0.35, 0.2, 0.35]).all()
    assert (area.max(0) > [0.8, 0.48, 0.9]).all()  # a box 200 wide is at most 267 high, 0.53 of a height of 500
    assert (boxes == np.rint(boxes)).all()


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(10, 1000, (0, 493, 10, 13)), (1000, 9, (494, 0, 12, 9)), (1, 1, (0, 0, 1, 1)), (90, 91, (0, 0, 90, 91))],
)
def test_where_no_box_fits_the_largest_in_the_middle_is_taken(height, width, box):
    boxes = random_boxes(Draws(0, "boxes"), *sides(height, width, 1000), (1.0, 1.0))
    different, times = np.unique(boxes, axis=0, return_counts=True)
    assert tuple(different[times.argmax()]) == box  # a box of exactly the whole area fits seldom or never


def test_boxes_do_not_depend_on_how_many_are_drawn_at_a_time(monkeypatch):
    whole = random_boxes(Draws(0, "boxes"), *sides(40, 30, 50), (0.08, 1.0))
    monkeypatch.setattr("glmc.batches.geometry.BOXES", 7)
    np.testing.assert_array_equal(random_boxes(Draws(0, "boxes"), *sides(40, 30, 50), (0.08, 1.0)), whole)


def test_center_crop_takes_the_middle():
    assert torch.equal(center_crop(IMAGES, 10), IMAGES[:, 5:15, 5:15])


def test_normalise_is_the_usual_formula_in_channels_last_memory():
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.1, 0.2, 0.3])
    out = normalise(IMAGES, 1 / (255 * std), -mean / std)
    slow = (IMAGES.double() / 255 - mean) / std
    assert torch.allclose(out.double(), slow.permute(0, 3, 1, 2), atol=1e-5)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_a_view_applies_its_operations_in_order_and_tells_its_size():
    view = View([{"center_crop": 16}, {"resized_crop": {"size": 8, "scale": [0.5, 1.0]}}, "flip"], [0.5], [0.5], CPU)
    grey = IMAGES[..., :1]
    table = view.draw(Draws(0, "v"), *sides(20, 20, 6))
    assert table["resized_crop"][:, 2:].max() <= 16  # the boxes know that the middle comes first
    out = view(grey, {name: torch.from_numpy(values) for name, values in table.items()})
    assert out.shape == (6, 1, 8, 8)


def test_a_view_knows_what_it_cuts_first_and_goes_on_from_there():
    box = {"resized_crop": {"size": 8, "scale": [0.5, 1.0]}}
    view = View([box, "flip"], [0.5] * 3, [0.5] * 3, CPU)
    assert view.cut == 8
    assert View(["flip", box], [0.5], [0.5], CPU).cut is None
    assert View([], [0.5], [0.5], CPU).cut is None
    table = {n: torch.from_numpy(v) for n, v in view.draw(Draws(0, "v"), *sides(20, 20, 6)).items()}
    assert torch.equal(
        view(resized_crop(IMAGES, table["resized_crop"], 8), table, cut=True),
        view(IMAGES, table),
    )


# ---------------------------------------------------------------------------------------- colours, one by one with PIL

FACTORS = torch.tensor([0.0, 0.6, 0.9371, 1.0, 1.25, 1.4])  # one an image
SMOOTH = torch.stack([resized_crop(image[None], torch.tensor([[0.0, 0, 5, 5]]), 20)[0] for image in IMAGES])
ENHANCERS = {BRIGHTNESS: ImageEnhance.Brightness, CONTRAST: ImageEnhance.Contrast, SATURATION: ImageEnhance.Color}
CLOSER = {BRIGHTNESS: "brightness", CONTRAST: "contrast", SATURATION: "saturation"}


def far(ours, theirs):
    """Largest difference in levels."""
    return np.abs(np.asarray(ours).astype(int) - np.asarray(theirs).astype(int)).max()


@pytest.mark.parametrize("images", [IMAGES, SMOOTH], ids=["noise", "smooth"])
@pytest.mark.parametrize("kind", ENHANCERS)
def test_a_blend_is_pils_and_torchvisions(kind, images):
    out = blend(images, torch.full((6,), kind), FACTORS)
    for image, factor, got in zip(images, FACTORS.tolist(), out, strict=True):
        assert far(got, ENHANCERS[kind](Image.fromarray(image.numpy())).enhance(factor)) == 0
        adjust = getattr(torchvision, f"adjust_{CLOSER[kind]}")
        assert (
            far(got.permute(2, 0, 1), adjust(image.permute(2, 0, 1), factor)) <= 1
        )  # its grey is cut off, not rounded


@pytest.mark.parametrize("channels", [1, 3])
def test_many_large_images_are_done_some_at_a_time_with_the_same_result(channels, monkeypatch):
    jitter = {"color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "p": 1.0}}
    view = View([jitter, {"blur": {"sigma": [0.1, 2.0], "p": 0.5}}, "flip"], [0.5], [0.5], CPU)
    table = {n: torch.from_numpy(v) for n, v in view.draw(Draws(0, "v"), *sides(20, 20, 6)).items()}
    whole = view(IMAGES[..., :channels], table)
    for most in (1, 2 * 20 * 20 * channels, 5 * 20 * 20 * channels):
        monkeypatch.setattr("glmc.batches.augment.CACHED", most)
        out = view(IMAGES[..., :channels], table)
        assert torch.equal(out, whole)
        assert out.is_contiguous(memory_format=torch.channels_last)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # as on a GPU: everything at once
    assert torch.equal(view(IMAGES[..., :channels], table), whole)


def test_each_image_has_its_own_kind_of_blend():
    kinds = torch.tensor([CONTRAST, BRIGHTNESS, SATURATION, BRIGHTNESS, SATURATION, CONTRAST])
    out = blend(IMAGES, kinds, FACTORS)
    for row, kind in enumerate(kinds.tolist()):
        alone = blend(IMAGES[row : row + 1], torch.tensor([kind]), FACTORS[row : row + 1])
        assert torch.equal(out[row], alone[0])


@pytest.mark.parametrize("images", [IMAGES, SMOOTH], ids=["noise", "smooth"])
def test_hue_is_torchvisions(images):
    turns = torch.tensor([-0.5, -0.1, 0.0, 0.033, 0.25, 0.5])
    out = shift_hue(images, turns)
    assert torch.equal(out[2], images[2])
    for image, turn, got in zip(images, turns.tolist(), out, strict=True):
        assert far(got.permute(2, 0, 1), torchvision.adjust_hue(image.permute(2, 0, 1), turn)) <= 1


def test_a_third_of_a_turn_moves_the_channels():
    out = shift_hue(IMAGES, torch.full((6,), 1 / 3))
    assert far(out, IMAGES.roll(1, dims=3)) == 0  # red becomes green, green blue


def test_jitter_applies_the_blends_in_each_images_order():
    kinds = torch.tensor([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]], dtype=torch.uint8)
    factors = torch.tensor(
        [[0.7, 1.3, 1.4], [1.4, 0.6, 1.2], [1.3, 0.8, 0.6], [0.9, 1.1, 1.2], [1.4, 1.4, 1.4], [1, 1, 1]]
    )
    out = color_jitter(IMAGES, kinds, factors)
    for image, order, strengths, got in zip(IMAGES.numpy(), kinds.tolist(), factors.tolist(), out, strict=True):
        picture = Image.fromarray(image)
        for kind, factor in zip(order, strengths, strict=True):
            picture = ENHANCERS[kind](picture).enhance(factor)
        assert far(got, picture) == 0
    turned = color_jitter(IMAGES, kinds, factors, torch.full((6,), 0.2))
    assert torch.equal(turned, shift_hue(out, torch.full((6,), 0.2)))


def test_grayscale_is_pils_where_chosen():
    chosen = torch.tensor([True, False, True, True, False, False])
    out = grayscale(IMAGES, chosen)
    for image, grey, got in zip(IMAGES.numpy(), chosen.tolist(), out.numpy(), strict=True):
        wanted = torchvision.rgb_to_grayscale(Image.fromarray(image), 3) if grey else image
        assert far(got, wanted) == 0


@pytest.mark.parametrize("operation", [lambda x: shift_hue(x, FACTORS / 3), lambda x: grayscale(x, FACTORS > 0)])
def test_grey_images_have_no_colour_to_change(operation):
    assert torch.equal(operation(IMAGES[..., :1]), IMAGES[..., :1])


def test_grey_images_are_jittered_like_pils_grey_images():
    grey = IMAGES[..., :1]
    for kind in (BRIGHTNESS, CONTRAST, SATURATION):
        out = blend(grey, torch.full((6,), kind), FACTORS)
        for image, factor, got in zip(grey, FACTORS.tolist(), out, strict=True):
            assert far(got[..., 0], ENHANCERS[kind](Image.fromarray(image[..., 0].numpy())).enhance(factor)) == 0


@pytest.mark.parametrize("images", [IMAGES, SMOOTH], ids=["noise", "smooth"])
def test_blur_is_gaussian(images):
    sigma = torch.tensor([0.0, 0.1, 0.5, 1.0, 1.7, 2.0])
    out = blur(images, sigma, 2.0)
    assert torch.equal(out[:2], images[:2])  # a tenth of a pixel reaches no neighbour
    for image, width, got in zip(images.numpy(), sigma.tolist(), out, strict=True):
        assert far(got, slow_blur(image, width)) == 0


@pytest.mark.parametrize("images", [IMAGES, SMOOTH], ids=["noise", "smooth"])
@pytest.mark.parametrize("sigma", [1.0, 1.7, 2.0])
def test_blur_is_nearly_pils(images, sigma):
    """PIL's is three box blurs, rounded and continued at the border in each: what is compared is the interior."""
    out = blur(images, torch.full((6,), sigma), 2.0)
    for image, got in zip(images.numpy(), out, strict=True):
        theirs = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))
        assert far(got[6:-6, 6:-6], theirs[6:-6, 6:-6]) <= 3


def slow_blur(image, sigma):
    """The definition: every pixel a weighted mean of its 13 x 13 neighbourhood, the border going on."""
    weights = np.exp(-0.5 * (np.arange(-6, 7) / max(sigma, 1e-3)) ** 2)
    weights /= weights.sum()
    framed = np.pad(image, ((6, 6), (6, 6), (0, 0)), mode="edge").astype(float)
    out = np.empty(image.shape)
    for top, left in np.ndindex(20, 20):
        out[top, left] = np.einsum("i,j,ijc->c", weights, weights, framed[top : top + 13, left : left + 13])
    return np.rint(out)


def test_blur_of_the_interior_is_torchvisions():
    wanted = torchvision.gaussian_blur(IMAGES.permute(0, 3, 1, 2), [13, 13], [1.3, 1.3]).permute(0, 2, 3, 1)
    out = blur(IMAGES, torch.full((6,), 1.3), 2.0)
    assert far(out[:, 6:-6, 6:-6], wanted[:, 6:-6, 6:-6]) <= 1  # it mirrors at the border


def test_jitter_is_drawn_in_its_range_and_in_every_order():
    value = {"brightness": 0.4, "contrast": 0.2, "saturation": 1.5, "hue": 0.1, "p": 0.8}
    kinds, factors, turns = random_jitter(Draws(0, "jitter"), 6000, value)
    assert (np.sort(kinds, axis=1) == [0, 1, 2]).all()
    orders = np.unique(kinds, axis=0, return_counts=True)[1]
    assert len(orders) == 6
    assert orders.min() > 900
    for kind, (low, high) in enumerate([(0.6, 1.4), (0.8, 1.2), (0.0, 2.5)]):
        drawn = factors[kinds == kind]
        moved = drawn[drawn != 1]
        assert low <= moved.min() < low + 0.01
        assert high - 0.01 < moved.max() <= high + 1e-6
        assert len(moved) / len(drawn) == pytest.approx(0.8, abs=0.03)
    assert np.abs(turns).max() == pytest.approx(0.1, abs=1e-3)
    assert (((factors == 1).all(1)) == (turns == 0)).all()  # an image is jittered as a whole or not at all


def test_a_view_draws_and_applies_colour_operations():
    jitter = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "p": 1.0}
    view = View(
        [{"color_jitter": jitter}, {"grayscale": 0.5}, {"blur": {"sigma": [0.1, 2.0], "p": 0.5}}],
        [0.0] * 3,
        [1.0] * 3,
        CPU,
    )
    drawn = {name: torch.from_numpy(values) for name, values in view.draw(Draws(0, "v"), *sides(20, 20, 6)).items()}
    assert 0 < drawn["grayscale"].sum() < 6
    assert 0 < (drawn["blur"] > 0).sum() < 6
    assert drawn["blur"][drawn["blur"] > 0].min() >= 0.1
    wanted = color_jitter(IMAGES, drawn["color_jitter.kinds"], drawn["color_jitter"], drawn["color_jitter.turns"])
    wanted = blur(grayscale(wanted, drawn["grayscale"]), drawn["blur"], 2.0)
    assert torch.equal((view(IMAGES, drawn) * 255).round().to(torch.uint8), wanted.permute(0, 3, 1, 2))
    rows = torch.tensor([4, 1])
    part = view(IMAGES[rows], {name: values[rows] for name, values in drawn.items()})
    assert torch.equal(part, view(IMAGES, drawn)[rows])  # an image does not depend on its company
