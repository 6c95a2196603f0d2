"""The loader of what fits on the device."""

import numpy as np
import pytest
import torch

from glmc.batches.augment import View
from glmc.batches.resident import ResidentLoader

CPU = torch.device("cpu")
STREAMS = {"instance": None, "rebalanced": 1.0}
IMAGES = np.random.default_rng(0).integers(0, 256, (37, 8, 8, 3), dtype=np.uint8)
LABELS = np.random.default_rng(1).integers(0, 4, 37)


def loader(seed=0, batch_size=10):
    view = View([{"crop": 1}, "flip"], (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), CPU)
    return ResidentLoader(
        IMAGES,
        LABELS,
        [view, view],
        STREAMS,
        batch_size=batch_size,
        seed=seed,
        device=CPU,
    )


def batches(of, epoch=0, first=0):
    """The steps of an epoch: stream -> batch."""
    for part in of.parts(of.epoch(epoch), first):
        yield {name: of.batch(stream) for name, stream in part.items()}


def test_an_epoch_holds_every_image_once_and_its_last_batch_is_what_is_left():
    steps = list(batches(loader()))
    assert [len(step["instance"].labels) for step in steps] == [10, 10, 10, 7]
    assert [len(step["rebalanced"].labels) for step in steps] == [10, 10, 10, 7]
    assert sorted(torch.cat([step["instance"].rows for step in steps]).tolist()) == list(range(37))


def test_labels_belong_to_their_rows():
    for step in batches(loader(), epoch=3):
        for stream in step.values():
            assert (stream.labels.numpy() == LABELS[stream.rows.numpy()]).all()


def test_an_epoch_is_a_function_of_seed_and_number():
    first, again = (next(batches(loader(), epoch=2))["rebalanced"] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.views, again.views, strict=True))
    other_epoch = next(batches(loader(), epoch=3))["rebalanced"]
    other_seed = next(batches(loader(seed=1), epoch=2))["rebalanced"]
    assert not torch.equal(first.views[0], other_epoch.views[0])
    assert not torch.equal(first.views[0], other_seed.views[0])


def test_an_epoch_can_be_entered_anywhere():
    whole, tail = list(batches(loader(), epoch=1)), list(batches(loader(), epoch=1, first=2))
    assert len(tail) == 2
    assert torch.equal(whole[2]["instance"].views[1], tail[0]["instance"].views[1])


def test_a_batch_is_a_function_of_its_part_alone():
    of = loader()
    parts = list(of.parts(of.epoch(0)))
    late, early = of.batch(parts[2]["instance"]), of.batch(parts[0]["instance"])
    again = of.batch(parts[2]["instance"])
    assert torch.equal(late.views[0], again.views[0])
    assert not torch.equal(late.views[0], early.views[0])
    some = of.batch(parts[2]["instance"].part(slice(3, 5)))
    assert torch.equal(some.views[1], late.views[1][3:5])


def test_two_views_of_an_image_differ_and_a_view_is_normalised():
    batch = next(batches(loader()))["instance"]
    assert not torch.equal(batch.views[0], batch.views[1])
    assert batch.views[0].shape == (10, 3, 8, 8)
    assert batch.views[0].dtype == torch.float32
    assert batch.views[0].is_contiguous(memory_format=torch.channels_last)
    levels = (batch.views[0] * 0.2 + torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) * 255
    assert (levels - levels.round()).abs().max() < 1e-3


@pytest.mark.parametrize("batch_size", [1, 37, 100])
def test_any_batch_size_covers_the_epoch(batch_size):
    assert sum(len(step["instance"].labels) for step in batches(loader(batch_size=batch_size))) == 37
