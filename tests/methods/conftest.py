"""Small steps of random images, for tests of methods."""

import numpy as np
import pytest
import torch

from glmc.methods.base import Method
from glmc.models import Backbone
from glmc.models.cifar_resnet import CifarResNet
from glmc.models.experts import multiply
from glmc.random import Draws
from glmc.recipe import choice
from glmc.step import Batch, Step

COUNTS = torch.tensor([40, 10, 3])
EXPERTS = {"bbn": (2, "layer3.0"), "experts": (3, "layer3")}  # number, and the stage from which on they are apart


USUAL = {  # loss and mixture
    "glmc": ({"name": "class_weighted", "exponent": 1.2}, {"name": "mixup_cutmix"}),
    "paco": ({"name": "balanced_softmax"}, {"name": "none"}),
    "gpaco": ({"name": "balanced_softmax"}, {"name": "none"}),
    "risda": ({"name": "deferred"}, {"name": "none"}),
}


def fits(method: str, mixture: str) -> bool:
    """Whether a method takes a mixture."""
    if method == "bcl" and mixture == "mixup_cutmix":  # a view for its classifier, and others for its contrast
        return False
    return mixture == "none" or choice.class_of("method", method).takes_mixtures


def build(name: str, dtype=torch.float32, batch_norm="split", loss=None, mixture=None, **settings) -> Method:
    """A method over three classes on a network of depth 8 and width 4; loss and mixture by name, or with settings."""
    torch.manual_seed(0)
    usual = USUAL.get(name, ({"name": "cross_entropy"}, {"name": "none"}))
    loss, mixture = (
        default if given is None else {"name": given} if isinstance(given, str) else given
        for given, default in zip((loss, mixture), usual, strict=True)
    )
    experts, stage = EXPERTS.get(name, (1, ""))
    nets = [CifarResNet(8, width=4) for _ in range(experts)]
    if experts > 1:
        multiply(nets, stage)
    parts = Backbone(nets[0], 16, batch_norm, experts), COUNTS
    factors = choice.build("loss", loss, COUNTS), choice.build("mixture", mixture, COUNTS)
    return choice.build("method", {"name": name, **settings}, COUNTS, (*parts, *factors)).to(dtype)


def random_step(method: Method, progress=0.5, batch=6, seed=0, dtype=torch.float32) -> Step:
    """Images of 8 x 8 pixels for each stream and view the method asks for."""
    generator = torch.Generator().manual_seed(seed)

    def draw():
        return torch.randn(batch, 3, 8, 8, generator=generator, dtype=dtype)

    streams = {
        name: Batch(
            views=tuple(draw() for _ in method.views),
            labels=torch.randint(3, (batch,), generator=generator),
            rows=torch.arange(batch),
        )
        for name in method.streams
    }
    tables = method.tables(Draws(seed, "step"), epoch=50, epochs=100, steps=1, batch=batch)
    draws = {name: torch.as_tensor(np.asarray(table[0])) for name, table in tables.items()}
    draws = {name: table.to(dtype) if table.is_floating_point() else table for name, table in draws.items()}
    return Step(streams, draws, torch.tensor(progress, dtype=dtype))


@pytest.fixture
def make():
    """The two builders."""
    return build, random_step
