"""Experts on a shared stem: each is the network by itself, and the stem is computed once."""

import pytest
import torch
from torch import nn

from glmc.errors import UserError
from glmc.losses.cross_entropy import CrossEntropy
from glmc.methods.base import Method
from glmc.mixtures.base import Mixture
from glmc.models import build_backbone
from glmc.models.experts import Copies
from glmc.models.heads import linear
from glmc.step import Batch, Step

STAGES = {
    "resnet20": ("layer2", "layer1", 32),
    "resnet18": ("layer4", "layer3", 32),
    "vit_tiny_patch16_224": ("blocks.9", "blocks.8", 224),
    "mobilenetv3_small_050": ("blocks.4", "blocks.3", 32),
}


def alone(backbone, name, expert):
    """The network with one expert's copies in place of all."""
    net = build_backbone(name).net
    state = {}
    for key, value in backbone.net.state_dict().items():
        if ".copies." not in key:
            state[key] = value
        elif f".copies.{expert}." in key:
            state[key.replace(f"copies.{expert}.", "")] = value
    net.load_state_dict(state)
    return net.eval()


@pytest.mark.parametrize("name", STAGES)
def test_each_expert_is_a_network_of_its_own_on_one_stem(name):
    stage, shared, side = STAGES[name]
    torch.manual_seed(0)
    backbone = build_backbone(name, experts=3, experts_from=stage).eval()
    calls = []
    backbone.net.get_submodule(shared).register_forward_hook(lambda *_: calls.append(None))
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        features = backbone(images)
        assert features.shape == (3, 2, backbone.out_dim)
        for expert in range(3):
            assert torch.allclose(features[expert], alone(backbone, name, expert)(images), atol=1e-4)
    assert len(calls) == 1
    assert not torch.allclose(features[0], features[1])  # they start from weights of their own


def test_views_keep_their_own_statistics_in_every_expert():
    torch.manual_seed(0)
    split = build_backbone("resnet20", experts=2, experts_from="layer3").double()
    torch.manual_seed(0)
    apart = build_backbone("resnet20", experts=2, experts_from="layer3", batch_norm="two_pass").double()
    apart.load_state_dict(split.state_dict())
    images = torch.randn(8, 3, 8, 8, dtype=torch.float64)
    assert torch.allclose(split(images, groups=2), apart(images, groups=2), atol=1e-10)


def test_a_stage_that_is_not_there_is_said():
    with pytest.raises(UserError, match=r"model.experts_from=layer9: the network has no such stage; it has conv1, bn1"):
        build_backbone("resnet20", experts=2, experts_from="layer9")


class Ensemble(Method):
    """Each expert has a classifier; the mean of their logits answers."""

    takes_experts = True

    def __init__(self, *parts):
        super().__init__(*parts)
        experts = self.backbone.experts
        self.classifiers = nn.ModuleList(linear(self.backbone.out_dim, self.classes) for _ in range(experts))

    def logits(self, images):
        return torch.stack([c(f) for c, f in zip(self.classifiers, self.backbone(images), strict=True)])  # [E, B, C]

    def forward(self, step):
        batch = step.streams["instance"]
        logits = self.logits(batch.views[0])
        return {f"expert {e}": self.loss(one, batch.labels, step.progress) for e, one in enumerate(logits)}

    def predict(self, images):
        return self.logits(images).mean(0)


def test_a_method_of_experts_reaches_every_parameter_and_others_refuse_them():
    counts = torch.tensor([5, 3])
    backbone = build_backbone("resnet20", experts=2, experts_from="layer3")
    assert any(isinstance(module, Copies) for module in backbone.modules())
    method = Ensemble(backbone, counts, CrossEntropy(counts), Mixture(counts))
    batch = Batch((torch.randn(4, 3, 8, 8),), torch.tensor([0, 1, 0, 1]), torch.arange(4))
    sum(method(Step({"instance": batch}, {}, torch.tensor(0.5))).values()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in method.parameters())
    assert method.predict(batch.views[0]).shape == (4, 2)
    from glmc import Supervised

    with pytest.raises(ValueError, match=r"Supervised trains a single expert: set model\.experts to 1"):
        Supervised(backbone, counts, CrossEntropy(counts), Mixture(counts))
