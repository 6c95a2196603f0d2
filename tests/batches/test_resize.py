"""Boxes cut out and resized, against the slow sums of whole numbers and against PIL."""

import numpy as np
import pytest
import torch
from PIL import Image

from glmc.batches.resize import resized_crop

IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 20, 20, 3), dtype=np.uint8))

# top, left, height, width: whole images, parts, lines and single pixels
BOXES = [(0, 0, 20, 20), (3, 5, 11, 7), (0, 12, 20, 8), (19, 0, 1, 20), (0, 19, 20, 1), (7, 19, 1, 1)]


def slow_line(values, size):
    """A line of 0 .. 255 resized: the triangle filter in whole numbers of as many bits as 16 can hold with a sign."""
    scale = len(values) / size
    support = max(scale, 1.0)
    weights = []
    for place in range(size):
        centre = (place + 0.5) * scale
        first, last = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), len(values))
        row = [max(0.0, 1 - abs((at - centre + 0.5) * (1 / support))) for at in range(first, last)]
        weights.append((first, [weight / sum(row) for weight in row]))
    largest, bits = max(max(row) for _, row in weights), 0
    while bits < 22 and int(0.5 + largest * 2 ** (bits + 1)) < 2**15:
        bits += 1
    out = []
    for first, row in weights:
        whole = [int(0.5 + weight * 2**bits) for weight in row]
        total = sum(w * int(v) for w, v in zip(whole, values[first:], strict=False))
        out.append(min(255, (total + 2 ** (bits - 1)) >> bits))
    return out


def slow_resize(image, size):
    """Every row, then every column."""
    rows = np.array([[slow_line(row[:, c], size) for c in range(image.shape[2])] for row in image])  # [H, ch, size]
    lines = rows.transpose(2, 1, 0)  # [size, ch, H]
    return np.array([[slow_line(line[c], size) for c in range(image.shape[2])] for line in lines]).transpose(2, 0, 1)


@pytest.mark.parametrize("where", ["image by image", "as a batch"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [1, 5, 12, 20, 33])
def test_resized_crop_is_the_slow_one_to_the_last_bit(size, channels, where, monkeypatch):
    if where == "as a batch":  # as it is done on a GPU
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    images = IMAGES[..., :channels]
    out = resized_crop(images, torch.tensor(BOXES, dtype=torch.float32), size)
    assert out.dtype == torch.uint8
    for image, (top, left, height, width), got in zip(images.numpy(), BOXES, out.numpy(), strict=True):
        np.testing.assert_array_equal(got, slow_resize(image[top : top + height, left : left + width], size))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("size", [1, 5, 12, 20, 33])
def test_resized_crop_on_a_gpu_is_that_of_a_cpu(size):
    boxes = torch.tensor(BOXES, dtype=torch.float32)
    assert torch.equal(resized_crop(IMAGES.cuda(), boxes.cuda(), size).cpu(), resized_crop(IMAGES, boxes, size))


@pytest.mark.parametrize("size", [1, 5, 12, 20, 33])
def test_resized_crop_is_pils_but_for_one_level_of_few_pixels(size):
    other = 0
    for seed in range(20):
        images = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (6, 20, 20, 3), dtype=np.uint8))
        out = resized_crop(images, torch.tensor(BOXES, dtype=torch.float32), size)
        for image, (top, left, height, width), got in zip(images.numpy(), BOXES, out.numpy(), strict=True):
            cut = Image.fromarray(image).crop((left, top, left + width, top + height))
            wanted = np.array(cut.resize((size, size), Image.Resampling.BILINEAR))
            assert np.abs(got.astype(int) - wanted).max() <= 1
            other += (got != wanted).sum()
    assert other / (20 * 6 * size * size * 3) < 0.1  # noise and simple ratios are the worst case
