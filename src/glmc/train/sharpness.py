"""Flat minima: the gradient of a step is taken beside the weights, a little uphill or at random.

Uphill, sharpness-aware minimisation (SAM): Foret et al., ICLR 2021, arXiv:2010.01412; adaptive: Kwon et al., ICML 2021,
arXiv:2102.11600. At random, Gaussian neighbourhood minimisation (GNM): Li et al., NeurIPS 2024, arXiv:2410.21042.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def uphill(parameters: Iterable[nn.Parameter], *, rho: float, adaptive: bool) -> Iterator[None]:
    """Weights moved along their gradients by a vector of length `rho`, and back to the very same bits at the end.

    Nothing in it waits for the host, and weights are changed in place, so that it can be recorded as a CUDA graph.

    Args:
        parameters: those without a gradient stay where they are.
        rho: length of w' - w, or with `adaptive` of (w' - w) / |w|.
        adaptive: whether to measure relative to each weight.
    """
    pairs = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
    moved: list[Tensor] = [parameter.detach() for parameter, _ in pairs]
    before = [weight.clone() for weight in moved]
    scales = [weight.abs() if adaptive else 1.0 for weight in moved]
    directions = [gradient * scale for (_, gradient), scale in zip(pairs, scales, strict=True)]
    length = rho / (torch.linalg.vector_norm(torch.stack([d.norm() for d in directions])) + 1e-12)  # float []
    for weight, direction, scale in zip(moved, directions, scales, strict=True):
        weight.add_(direction * scale * length)
    try:
        yield
    finally:
        torch._foreach_copy_(moved, before)


@contextmanager
def shaken(parameters: Iterable[nn.Parameter], *, rho: float) -> Iterator[None]:
    """Weights moved by noise, and back to the very same bits at the end.

    Each weight on its own by a normal random number of deviation rho / 3, cut off at rho. The numbers come from the
    generator of the device, which the engine seeds for every step: a resumed run sees the same ones, and so does a
    recorded step. The released code of GNM halves the noise where re-weighting begins; here it stays.

    Args:
        parameters: those that are not trained stay where they are.
        rho: the largest change of a weight.
    """
    moved: list[Tensor] = [parameter.detach() for parameter in parameters if parameter.requires_grad]
    before = [weight.clone() for weight in moved]
    noise = [torch.randn_like(weight) for weight in moved]
    torch._foreach_mul_(noise, rho / 3)
    torch._foreach_clamp_min_(noise, -rho)
    torch._foreach_clamp_max_(noise, rho)
    torch._foreach_add_(moved, noise)
    try:
        yield
    finally:
        torch._foreach_copy_(moved, before)


@contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """BatchNorm normalises as in training, but its running averages and counters stay as they are."""
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
