"""SAM against the formula told slowly, and what a second pass must leave alone."""

import pytest
import torch
from test_engine import drawn_step, parts
from torch import nn

from glmc.methods.glmc import GLMC
from glmc.methods.supervised import Supervised
from glmc.train.engine import seed_generators, training_step
from glmc.train.sharpness import shaken, uphill


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_step_uphill_is_the_formula_and_ends_where_it_began(adaptive):
    weights = [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(2))]
    for weight in weights[:2]:
        weight.grad = torch.randn_like(weight)
    before = [weight.detach().clone() for weight in weights]
    scaled = [w * w * w2.grad if adaptive else w2.grad for w, w2 in zip(before, weights[:2], strict=False)]
    length = sum(
        float(((w if adaptive else 1) * w2.grad).pow(2).sum()) for w, w2 in zip(before, weights[:2], strict=False)
    )
    with uphill(weights, rho=0.1, adaptive=adaptive):
        for weight, start, direction in zip(weights, before, scaled, strict=False):
            assert torch.allclose(weight, start + 0.1 * direction / length**0.5, atol=1e-6)
        assert torch.equal(weights[2], before[2])  # has no gradient
    assert all(torch.equal(weight, start) for weight, start in zip(weights, before, strict=True))


def test_noise_is_cut_off_and_leaves_no_trace():
    weights = [nn.Parameter(torch.randn(300, 100)), nn.Parameter(torch.randn(7), requires_grad=False)]
    before = [weight.detach().clone() for weight in weights]
    with shaken(weights, rho=0.3):
        change = (weights[0] - before[0]).detach()
        assert torch.equal(weights[1], before[1])
    assert change.abs().max().item() == pytest.approx(0.3, abs=1e-6)  # one in 370 lies beyond
    assert (change.mean().item(), change.std().item()) == (pytest.approx(0, abs=3e-3), pytest.approx(0.0986, abs=3e-3))
    assert all(torch.equal(weight, start) for weight, start in zip(weights, before, strict=True))


def test_a_step_with_noise_takes_the_gradient_of_its_seed():
    """The same numbers for the same seed; one pass, so that the statistics move once."""
    moved = []
    for seed in (0, 0, 1):
        method, loader, optimizer = parts(Supervised)
        before = method.classifier.weight.detach().clone()
        seed_generators(seed, torch.device("cpu"))
        training_step(method, loader, optimizer, precision="float32", noise=0.01)(drawn_step(method, loader))
        moved.append(method.classifier.weight.detach() - before)
    assert torch.equal(moved[0], moved[1])
    assert not torch.equal(moved[0], moved[2])
    assert {int(b) for n, b in method.named_buffers() if "tracked" in n} == {1}

    slow, loader, optimizer = parts(Supervised)
    seed_generators(0, torch.device("cpu"))
    trained = [*slow.parameters()]
    with torch.no_grad():
        for weight in trained:
            weight.add_((torch.randn_like(weight) * 0.01 / 3).clamp(-0.01, 0.01))
    training_step(slow, loader, torch.optim.SGD(trained, lr=0.0), precision="float32")(drawn_step(slow, loader))
    assert torch.allclose(moved[0], -0.05 * slow.classifier.weight.grad, atol=1e-6)


@pytest.mark.parametrize("kind", [Supervised, GLMC])
def test_a_step_takes_the_gradient_of_the_second_pass_and_the_statistics_of_the_first(kind):
    plain, loader, optimizer = parts(kind)
    training_step(plain, loader, optimizer, precision="float32")(drawn_step(plain, loader))
    sharp, loader, optimizer = parts(kind)
    inputs, start = drawn_step(sharp, loader), {k: v.clone() for k, v in sharp.state_dict().items()}
    sharpness = {"rho": 0.2, "adaptive": False}
    training_step(sharp, loader, optimizer, precision="float32", sharpness=sharpness)(inputs)
    for name, buffer in sharp.named_buffers():
        assert torch.equal(buffer, dict(plain.named_buffers())[name]), name

    slow, loader, optimizer = parts(kind)
    slow.load_state_dict(start)
    step = training_step(slow, loader, torch.optim.SGD(slow.parameters(), lr=0.0), precision="float32")
    step(inputs)  # the gradient where it stands
    norm = torch.stack([p.grad.norm() for p in slow.parameters()]).norm()
    with torch.no_grad():
        for parameter in slow.parameters():
            parameter.add_(0.2 * parameter.grad / norm)
    step(inputs)  # and uphill
    for (name, one), two in zip(sharp.named_parameters(), slow.parameters(), strict=True):
        moved = (start[name] - one) / 0.05
        assert torch.allclose(moved, two.grad, atol=1e-4, rtol=1e-3), name
