"""MixUp and CutMix against loops, and CutMix's geometry against its published values."""

import math
from itertools import product

import pytest
import torch

from glmc import cutmix, mixup

A, B = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.randn(2, 3, 32, 32, dtype=torch.float64)


def test_mixup_is_the_convex_combination():
    lam = torch.tensor(0.3, dtype=torch.float64)
    assert torch.allclose(mixup(A, B, lam), 0.3 * A + 0.7 * B, atol=1e-12)
    assert torch.equal(mixup(A, B, torch.tensor(1.0)), A)
    assert torch.equal(mixup(A, B, torch.tensor(0.0)), B)


@pytest.mark.parametrize(
    ("lam", "side"), [(0.5, 22), (0.1, 30), (0.25, 28), (0.9, 10), (0.75, 16), (1.0, 0), (0.0, 32)]
)
def test_the_box_of_the_published_code(lam, side):
    """32 x 32, centre in the middle: ceil(32 sqrt(1 - lam)), and an odd side loses a pixel."""
    mixed, left = cutmix(A, B, torch.tensor(lam), torch.tensor([0.5, 0.5]))
    pasted = (mixed == B).all(1)[0]
    assert pasted.sum() == side * side
    assert left.item() == pytest.approx(1 - side * side / 32**2)
    assert torch.equal(mixed[:, :, ~pasted], A[:, :, ~pasted])


def slow_cutmix(lam, centre, size):
    half = math.ceil(size * math.sqrt(1 - lam)) // 2
    y, x = (math.floor(c * size) for c in centre)
    return [(i, j) for i in range(size) for j in range(size) if y - half <= i < y + half and x - half <= j < x + half]


def test_a_box_over_the_border_is_clipped_and_its_share_is_the_pixels():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        lam, *centre = torch.rand(3, generator=generator, dtype=torch.float64)
        mixed, left = cutmix(A, B, lam, torch.stack(centre))
        inside = slow_cutmix(lam.item(), [c.item() for c in centre], 32)
        assert (mixed == B).all(1)[0].nonzero().tolist() == [list(at) for at in inside]
        assert left.item() == pytest.approx(1 - len(inside) / 1024)


def test_the_true_share_is_far_from_lambda_on_average():
    """Uniform lambda: nominal 0.5, really 0.32 of the pixels at 32 x 32."""
    generator = torch.Generator().manual_seed(1)
    tiny_a, tiny_b = torch.zeros(1, 1, 32, 32), torch.ones(1, 1, 32, 32)
    shares = [1 - cutmix(tiny_a, tiny_b, r[0], r[1:])[1].item() for r in torch.rand(4000, 3, generator=generator)]
    assert sum(shares) / len(shares) == pytest.approx(0.321, abs=0.015)


def test_other_dimensions_than_an_images_can_be_cut():
    a, b = torch.zeros(2, 4, 50), torch.ones(2, 4, 50)  # [B, channels, time]
    mixed, left = cutmix(a, b, torch.tensor(0.6), torch.tensor([0.5]), dims=(-1,))
    assert mixed[0, 0].tolist() == [0] * 15 + [1] * 20 + [0] * 15
    assert left.item() == pytest.approx(0.6)


def slow_box(first, second, box):
    """`first` with the positions of `second` at which every cut index lies in its range; box: dimension -> range."""
    mixed = first.clone()
    for at in product(*map(range, first.shape)):
        if all(at[dim] in inside for dim, inside in box.items()):
            mixed[at] = second[at]
    return mixed


@pytest.mark.parametrize(
    ("shape", "dims", "centre", "box", "left"),
    [  # lambda 0.75: a half of each of two sides, a quarter of one; an odd side loses one
        ((2, 3, 8, 5), (2, 3), (0.5, 0.5), {2: range(2, 6), 3: range(1, 3)}, 1 - 4 * 2 / 40),  # ceil(2.5) // 2 = 1
        ((2, 3, 8, 5), (-2,), (0.25,), {2: range(1, 3)}, 0.75),
        ((2, 3, 8, 5), (-1, 1), (0.0, 0.99), {3: range(0, 1), 1: range(1, 3)}, 1 - 1 * 2 / 15),
        ((4, 16), (1,), (0.5,), {1: range(6, 10)}, 0.75),
        ((4, 16), (-1,), (0.0,), {1: range(0, 2)}, 1 - 2 / 16),
    ],
)
def test_skeletons_and_sequences_are_cut_in_the_dimensions_that_are_named(shape, dims, centre, box, left):
    a, b = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    mixed, share = cutmix(a, b, torch.tensor(0.75), torch.tensor(centre), dims=dims)
    assert torch.equal(mixed, slow_box(a, b, box))
    assert share.item() == pytest.approx(left)
    assert torch.allclose(mixup(a, b, torch.tensor(0.75)), 0.75 * a + 0.25 * b, atol=1e-12)


@pytest.mark.parametrize(("shape", "dims"), [((4, 16), (-2, -1)), ((4, 16), (0,)), ((2, 3, 8, 5), (-4, 3))])
def test_the_batch_is_never_cut(shape, dims):
    with pytest.raises(ValueError, match="cuts the batch"):
        cutmix(torch.zeros(shape), torch.ones(shape), torch.tensor(0.5), torch.rand(len(dims)), dims=dims)


def test_a_centre_has_a_fraction_for_each_dimension():
    with pytest.raises(ValueError, match=r"centre of shape \[1\], not \[2\]"):
        cutmix(torch.zeros(4, 16), torch.ones(4, 16), torch.tensor(0.5), torch.rand(2), dims=(1,))
