"""What holds for every method."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from glmc.losses import LOSSES
from glmc.methods import METHODS
from glmc.mixtures import MIXTURES
from methods.conftest import EXPERTS, fits


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
def test_all_state_is_in_the_state_dict(name, make):
    build, step = make
    trained, fresh = build(name), build(name)
    torch.nn.init.normal_(next(trained.parameters()))
    trained(step(trained))
    fresh.load_state_dict(trained.state_dict())
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(trained.eval().predict(images), fresh.eval().predict(images))


@pytest.mark.parametrize("name", METHODS)
def test_the_head_gives_the_logits_and_asking_for_it_changes_nothing(name, make):
    build, step = make
    method = build(name)
    method(step(method))
    method.eval()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    images = torch.randn(2, 3, 8, 8)
    if name in EXPERTS:  # several classifiers, or one of several features
        assert method.head() is None
        return
    assert torch.allclose(method.head()(method.backbone(images)), method.predict(images), atol=1e-6)
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        *((name, {"mixture": mixture}) for name in METHODS for mixture in MIXTURES if fits(name, mixture)),
        *(("supervised", {"loss": loss}) for loss in LOSSES),
    ],
)
def test_a_step_reads_nothing_back(name, factors, make):
    """No value of a tensor may reach the host: a fake tensor has none to give, and says so."""
    build, random_step = make
    method = build(name, **factors)
    step = random_step(method)
    with FakeTensorMode(allow_non_fake_inputs=True):
        loss = sum(method(step).values())
        with pytest.raises(DataDependentOutputException):
            loss.item()
