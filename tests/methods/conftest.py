"""Small steps of random images, for tests of methods."""

import numpy as np
import pytest
import torch

from glmc.methods import METHODS
from glmc.methods.base import Method
from glmc.models import Backbone
from glmc.models.cifar_resnet import CifarResNet
from glmc.random import Draws
from glmc.step import Batch, Step

COUNTS = torch.tensor([40, 10, 3])


def build(name: str, dtype=torch.float32, batch_norm="split", **settings) -> Method:
    """A method over three classes on a network of depth 8 and width 4."""
    import importlib

    torch.manual_seed(0)
    module, _, cls = METHODS[name].partition(":")
    net = CifarResNet(8, width=4)
    method = getattr(importlib.import_module(module), cls)(Backbone(net, 16, batch_norm), COUNTS, **settings)
    return method.to(dtype)


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
        for name in ("instance", *method.streams)
    }
    tables = method.draws(Draws(seed, "step"), 1)
    draws = {name: torch.as_tensor(np.asarray(table[0]), dtype=dtype) for name, table in tables.items()}
    return Step(streams, draws, torch.tensor(progress, dtype=dtype))


@pytest.fixture
def make():
    """The two builders."""
    return build, random_step
