"""MixUp and CutMix against loops, and CutMix's geometry against its published values."""

import math

import pytest
import torch

from glmc.mixing import cutmix, mixup

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
