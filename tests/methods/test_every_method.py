"""What holds for every method."""

import inspect

import pytest
import torch

from glmc.methods import METHODS


@pytest.mark.parametrize("name", METHODS)
def test_one_step_reaches_every_parameter(name, make):
    build, step = make
    method = build(name)
    terms = method(step(method))
    sum(terms.values()).backward()
    assert all(term.ndim == 0 and term.isfinite() for term in terms.values())
    unreached = [n for n, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not unreached, f"{name}: no gradient for {unreached}"


@pytest.mark.parametrize("name", METHODS)
def test_predictions_are_logits_and_do_not_depend_on_the_batch(name, make):
    build, step = make
    method = build(name)
    method(step(method))  # moves the running averages away from their start
    method.eval()
    images = torch.randn(5, 3, 8, 8)
    with torch.inference_mode():
        together = method.predict(images)
        alone = torch.cat([method.predict(image[None]) for image in images])
    assert together.shape == (5, 3)
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_the_same_step_gives_the_same_terms(name, make):
    build, step = make
    first, again = ({k: v.item() for k, v in build(name)(step(build(name))).items()} for _ in range(2))
    assert first == again


@pytest.mark.parametrize("name", METHODS)
def test_all_state_is_in_the_state_dict(name, make):
    build, step = make
    trained, fresh = build(name), build(name)
    torch.nn.init.normal_(next(trained.parameters()))
    trained(step(trained))
    fresh.load_state_dict(trained.state_dict())
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(trained.eval().predict(images), fresh.eval().predict(images))


@pytest.mark.parametrize("name", METHODS)
def test_settings_are_keyword_only_with_defaults(name, make):
    build, _ = make
    for parameter in list(inspect.signature(type(build(name)).__init__).parameters.values())[3:]:
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.default is not parameter.empty
