"""The two loops: golden losses, entering an epoch anywhere, the meter, evaluation."""

import itertools
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from glmc import ClassWeighted, CrossEntropy, Mixture, MixUpCutMix
from glmc.batches.augment import View
from glmc.batches.resident import ResidentLoader
from glmc.batches.resize import shrunk
from glmc.errors import NonFiniteLoss, UserError
from glmc.methods.glmc import GLMC
from glmc.methods.supervised import Supervised
from glmc.models import Backbone
from glmc.models.cifar_resnet import CifarResNet
from glmc.runs.trained import evaluate, logits_of
from glmc.step import Batch
from glmc.train.engine import Inputs, Meter, State, draw, fit, move, refuse_non_finite, training_step

CPU = torch.device("cpu")
COUNTS = torch.tensor([30, 12, 4])
FACTORS = CrossEntropy(COUNTS), Mixture(COUNTS)
AS_THEY_ARE = torch.zeros(0, dtype=torch.uint8)
LABELS = np.repeat(np.arange(3), COUNTS.numpy())
IMAGES = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (46, 8, 8, 3)).astype(np.uint8)


def parts(kind, seed=0, device=CPU, depth=8, width=4):
    torch.manual_seed(seed)
    backbone = Backbone(CifarResNet(depth, width), 16, "split")
    factors = (ClassWeighted(COUNTS, exponent=1.2), MixUpCutMix(COUNTS)) if kind is GLMC else FACTORS
    method = kind(backbone, COUNTS, *factors).to(device)
    views = [View([{"crop": 1}, "flip"], (0.5,) * 3, (0.25,) * 3, device)] * len(method.views)
    loader = ResidentLoader(IMAGES, LABELS, views, method.streams, batch_size=12, seed=seed, device=device)
    lr = torch.tensor(0.05, device=device)
    optimizer = torch.optim.SGD(
        [{"name": "all", "params": method.parameters(), "peak": 0.05}], lr=lr, momentum=0.9, fused=True
    )
    return method, loader, optimizer


def drawn_step(method, loader):
    """The inputs of the first step of an epoch."""
    draws = {name: table[0] for name, table in move(draw(method, loader, 0, 2), loader.device).items()}
    return Inputs(next(loader.parts(loader.epoch(0))), draws, torch.tensor(0.5), AS_THEY_ARE)


def fitting(method, loader, optimizer, state, **options):
    clip = options.pop("clip", None)
    step = training_step(method, loader, optimizer, precision="float32", clip=clip)
    return fit(method, loader, optimizer, step, state, **options)


def run(kind, epochs=5, **options):
    method, loader, optimizer = parts(kind)
    state, losses, before = State(), [], {}
    for over, meter in fitting(method, loader, optimizer, state, epochs=epochs, factors=[1.0] * epochs, **options):
        sums = meter.read()
        losses.append({name: value - before.get(name, 0.0) for name, value in sums.items()})
        before = {} if over else sums
    return method, state, losses


@pytest.mark.parametrize("kind", [Supervised, GLMC])
def test_the_first_twenty_losses_are_the_recorded_ones(kind):
    """Golden values, of this code on a CPU in float32; a change of any of them is a change of the method."""
    golden = json.loads((Path(__file__).parent.parent / "golden" / "losses.json").read_text())[kind.__name__]
    _, _, losses = run(kind)
    assert len(losses) == 20
    for step, (got, wanted) in enumerate(zip(losses, golden, strict=True)):
        for name, value in wanted.items():
            assert got[name] == pytest.approx(value, rel=2e-3, abs=2e-4), f"step {step}, {name}"


def test_state_is_up_to_date_after_every_step():
    method, loader, optimizer = parts(Supervised)
    state, seen = State(), []
    for over, _ in fitting(method, loader, optimizer, state, epochs=2, factors=[1.0, 0.1]):
        seen.append((over, state.epoch, state.step, state.steps))
    assert seen == [
        (False, 0, 1, 1), (False, 0, 2, 2), (False, 0, 3, 3), (True, 1, 0, 4),
        (False, 1, 1, 5), (False, 1, 2, 6), (False, 1, 3, 7), (True, 2, 0, 8),
    ]  # fmt: skip
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.005)


def test_a_run_ends_after_max_steps_in_the_middle_of_an_epoch():
    _, state, losses = run(Supervised, max_steps=6)
    assert (len(losses), state.steps, state.epoch, state.step) == (6, 6, 2, 0)


@pytest.mark.parametrize(("max_steps", "epochs"), [(None, 3), (5, 2), (4, 1), (1, 1)])
def test_a_thread_draws_the_next_tables_and_none_after_the_last(monkeypatch, max_steps, epochs):
    method, loader, optimizer = parts(GLMC)
    calls, real = [], loader.draw

    def draw(epoch):
        calls.append((epoch, threading.current_thread() is threading.main_thread()))
        return real(epoch)

    monkeypatch.setattr(loader, "draw", draw)
    for _ in fitting(method, loader, optimizer, State(), epochs=3, factors=[1.0] * 3, max_steps=max_steps):
        pass
    assert calls == [(epoch, epoch == 0) for epoch in range(epochs)]


def test_going_on_in_the_middle_of_an_epoch_changes_nothing():
    whole, _, _ = run(GLMC, epochs=2)
    method, loader, optimizer = parts(GLMC)
    state = State()
    options = {"epochs": 2, "factors": [1.0, 1.0]}
    for _, meter in fitting(method, loader, optimizer, state, **options):
        if state.steps == 6:
            state.sums = meter.read()
            break
    for _ in fitting(method, loader, optimizer, state, **options):
        pass
    for (name, a), (_, b) in zip(whole.state_dict().items(), method.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_images_are_brought_to_the_side_of_their_epoch():
    method, loader, optimizer = parts(Supervised)
    sides = []
    method.backbone.register_forward_pre_hook(lambda module, inputs: sides.append(inputs[0].shape[2:]))
    for _ in fitting(method, loader, optimizer, State(), epochs=2, factors=[1.0] * 2, sides=[6, 0]):
        pass
    assert sides == [(6, 6)] * loader.steps + [(8, 8)] * loader.steps
    stripes = torch.tensor([0.0, 1.0] * 4).expand(1, 3, 8, 8)  # too fine for half the side: their mean is left
    (small,) = shrunk(Batch((stripes,), torch.zeros(1), torch.zeros(1)), 4).views
    torch.testing.assert_close(small[..., 1:-1], torch.full((1, 3, 4, 2), 0.5))


def test_clipping_bounds_the_gradient():
    method, loader, optimizer = parts(Supervised)
    for _ in fitting(method, loader, optimizer, State(), epochs=1, factors=[0.0], clip=1e-3):
        norm = torch.stack([p.grad.norm() for p in method.parameters()]).norm()
        assert norm <= 1.001e-3


def test_the_meter_sums_by_name_and_goes_on_from_a_resumed_sum():
    meter = Meter(CPU, {"a": 1.0, "b": 2.0}, 2)
    meter.add({"a": torch.tensor(0.5), "b": torch.tensor(0.25)})
    assert meter.read() == {"a": 1.5, "b": 2.25}
    assert meter.glance() == {"a": 0.5, "b": 0.75}  # of three steps


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_term_is_named_with_its_epoch(value):
    with pytest.raises(NonFiniteLoss, match=r"'rebalanced' became (nan|inf) in epoch 4"):
        refuse_non_finite({"conventional": 1.0, "rebalanced": value}, 3)


def test_evaluation_counts_every_image_whatever_the_batch():
    method, _, _ = parts(Supervised)
    images, labels = torch.from_numpy(IMAGES), torch.from_numpy(LABELS)
    view = View([], (0.5,) * 3, (0.25,) * 3, CPU)
    method.train()
    one, many = (
        evaluate(method, logits_of(method, view, precision="float32"), images, labels, batch_size=size).compute()
        for size in (46, 7)
    )
    assert (one[0] == many[0]).all()
    assert one[0].sum() == 46
    assert one[1]["nll"] == pytest.approx(many[1]["nll"], rel=1e-5)
    assert method.training  # as it was before
    logits = method.eval().predict(view(images, {}))
    assert (np.bincount(LABELS * 3 + logits.argmax(1).numpy(), minlength=9).reshape(3, 3) == one[0]).all()


def test_flip_tta_averages_probabilities():
    method, _, _ = parts(Supervised)
    images, labels = torch.from_numpy(IMAGES), torch.from_numpy(LABELS)
    view = View([], (0.5,) * 3, (0.25,) * 3, CPU)
    answer = logits_of(method, view, precision="float32", how="flip")
    _, extras = evaluate(method, answer, images, labels, batch_size=50).compute()
    with torch.inference_mode():
        method.eval()
        pixels = view(images, {})
        probability = (method.predict(pixels).softmax(1) + method.predict(pixels.flip(3)).softmax(1)) / 2
    assert extras["nll"] == pytest.approx(-probability[torch.arange(46), labels].log().mean().item(), rel=1e-4)


def test_five_crops_average_logits():
    method, _, _ = parts(Supervised)
    side, images = IMAGES.shape[1], torch.from_numpy(IMAGES)
    crop, middle = side - 3, slice(1, side - 2)
    view = View([{"center_crop": crop}], (0.5,) * 3, (0.25,) * 3, CPU)
    with torch.inference_mode():
        method.eval()
        found = logits_of(method, view, precision="float32", how="crops")(images)
        windows = [(middle, middle), *itertools.product((slice(0, crop), slice(3, side)), repeat=2)]
        pixels = [((images[:, rows, columns] / 255 - 0.5) / 0.25).permute(0, 3, 1, 2) for rows, columns in windows]
        torch.testing.assert_close(found, sum(map(method.predict, pixels)) / 5)
    with pytest.raises(UserError, match="the test images are not cropped"):
        logits_of(method, View([], (0.5,) * 3, (0.25,) * 3, CPU), precision="float32", how="crops")


def test_a_method_may_stop_a_group_and_gather_before_each_epoch():
    method, loader, optimizer = parts(Supervised)
    method.rates = lambda progress: {"all": 1.0 if progress < 0.5 else 0.0}
    gathered, weights = [], []
    options = {"epochs": 2, "factors": [1.0, 1.0], "before_epoch": gathered.append}
    for over, _ in fitting(method, loader, optimizer, State(), **options):
        if over:
            weights.append(method.classifier.weight.detach().clone())
    assert gathered == [0, 1]
    assert torch.equal(weights[0], weights[1])
    resumed = State(epoch=1, step=2, steps=6)
    next(iter(fitting(method, loader, optimizer, resumed, **options)))
    assert gathered == [0, 1]  # what was gathered for this epoch lies in the checkpoint


def test_the_training_set_is_seen_in_order_without_augmentation():
    _, loader, _ = parts(Supervised)
    view = View([], (0.5,) * 3, (0.25,) * 3, CPU)
    batches = list(loader.look(view))
    assert torch.equal(torch.cat([batch.rows for batch in batches]), torch.arange(46))
    assert torch.equal(torch.cat([batch.labels for batch in batches]), torch.from_numpy(LABELS))
    assert torch.allclose(torch.cat([batch.views[0] for batch in batches]), view(torch.from_numpy(IMAGES), {}))
