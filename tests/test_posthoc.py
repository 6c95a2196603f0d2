"""Post-hoc adjustments of a classifier: formulas, limits, published values."""

import math

import pytest
import torch

from glmc.posthoc import logit_adjustment, max_norm, norm_limit, tau_norm

torch.manual_seed(0)
WEIGHT, BIAS = torch.randn(5, 7) * torch.tensor([[4.0], [3.0], [2.0], [1.0], [0.5]]), torch.randn(5)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.9])
def test_tau_norm_divides_each_row_by_a_power_of_its_norm_and_drops_the_bias(tau):
    weight, bias = tau_norm(WEIGHT, BIAS, tau)
    for row, old in zip(weight.tolist(), WEIGHT.tolist(), strict=True):
        norm = math.sqrt(sum(x * x for x in old))
        assert row == pytest.approx([x / norm**tau for x in old], rel=1e-5)
    assert not bias.any()


def test_logit_adjustment_subtracts_tau_times_the_log_prior():
    counts = torch.tensor([int(500 * 0.01 ** (i / 99)) for i in range(100)])
    weight, bias = logit_adjustment(torch.zeros(100, 3), torch.zeros(100), counts, 1.0)
    assert bias[0].item() == pytest.approx(3.0770, abs=1e-4)  # - log(500 / 10847)
    assert bias[-1].item() == pytest.approx(7.6822, abs=1e-4)
    assert not weight.any()
    assert torch.equal(logit_adjustment(WEIGHT, BIAS, torch.arange(1, 6), 0.0)[1], BIAS)


def test_max_norm_shortens_long_rows_only_and_is_idempotent():
    limit = norm_limit(WEIGHT, 0.1)
    norms = WEIGHT.norm(dim=1)
    assert limit.item() == pytest.approx((norms.min() + 0.1 * (norms.max() - norms.min())).item())
    once = max_norm(WEIGHT, limit)
    assert (once.norm(dim=1) <= limit * (1 + 1e-6)).all()
    assert torch.equal(once[norms <= limit], WEIGHT[norms <= limit])
    assert torch.allclose(max_norm(once, limit), once, rtol=1e-6)
    directions = torch.nn.functional.cosine_similarity(once, WEIGHT)
    assert torch.allclose(directions, torch.ones(5))
