"""Batched augmentation against the same thing done slowly, image by image, with PIL and numpy."""

import numpy as np
import pytest
import torch
from PIL import Image

from glmc.augment import View, center_crop, crop, flip, normalise, random_boxes, resized_crop
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


@pytest.mark.parametrize("size", [5, 12, 20, 33])
@pytest.mark.parametrize("box", [(0, 0, 20, 20), (3, 5, 11, 7), (0, 12, 20, 8), (19, 0, 1, 20)])
def test_resized_crop_is_pils(size, box):
    top, left, height, width = box
    smooth = np.array(Image.fromarray(IMAGES[0].numpy()).resize((20, 20), Image.Resampling.BILINEAR))
    images = torch.from_numpy(smooth)[None]
    out = resized_crop(images, torch.tensor([box], dtype=torch.float32), size)[0].numpy()
    cut = Image.fromarray(smooth).crop((left, top, left + width, top + height))
    wanted = np.array(cut.resize((size, size), Image.Resampling.BILINEAR))
    assert np.abs(out.astype(int) - wanted.astype(int)).max() <= 1  # PIL rounds between the two directions


def test_boxes_stay_inside_and_cover_the_scale():
    boxes = random_boxes(Draws(0, "boxes"), 5000, 32, (0.08, 1.0))
    top, left, high, wide = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + high <= 32).all()
    assert (left + wide <= 32).all()
    area = high * wide / 32**2
    assert 0.05 < area.min() < 0.1
    assert area.max() > 0.9
    assert 0.4 < area.mean() < 0.6


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
    table = view.draw(Draws(0, "v"), len(grey), 20)
    assert table["resized_crop"][:, 2:].max() <= 16  # the boxes know that the middle comes first
    out = view(grey, {name: torch.from_numpy(values) for name, values in table.items()})
    assert out.shape == (6, 1, 8, 8)
