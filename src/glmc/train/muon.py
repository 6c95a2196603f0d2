"""Muon: momentum, orthogonalised. Jordan et al. 2024; scaled as by Liu et al. 2025, arXiv:2502.16982."""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

POLYNOMIAL = (3.4445, -4.7750, 2.0315)  # a x + b x^3 + c x^5 sends singular values from (0, 1] towards 1
ROUNDS = 5
BETAS = (0.9, 0.99)  # of AdamW
SIZE = 0.2  # root mean square of AdamW's updates, about


def orthogonalised(matrices: Tensor) -> Tensor:
    """The nearest matrices with orthonormal rows or columns, roughly: their singular values lie around 1.

    Newton-Schulz iterations, which are products of matrices only.

    Shape:
        matrices  float [N, rows, columns]
        output    float32 [N, rows, columns]
    """
    x = matrices.float()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = POLYNOMIAL
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


def is_matrix(weight: Tensor) -> bool:
    """Whether a weight has several rows and several columns; a kernel [out, in, h, w] is [out, in * h * w]."""
    return weight.ndim > 1 and 1 < len(weight) < weight.numel()


class Muon(Optimizer):
    """Matrices and kernels of some groups move by Muon, everything else by AdamW.

    The update of a matrix is scaled to the usual size of AdamW's, so that one learning rate and one weight decay,
    decoupled, serve both.

    Args:
        groups: with "params", "lr" as a tensor, and whether the matrices among them are "orthogonal".
        momentum: of Muon, which looks ahead as Nesterov's, in [0, 1).
        weight_decay: what a weight loses in a step, as a multiple of the learning rate.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, momentum: float, weight_decay: float) -> None:
        super().__init__(groups, {"momentum": momentum, "weight_decay": weight_decay, "orthogonal": False})
        for group in self.param_groups:
            for weight in group["params"]:
                self.state[weight]["exp_avg"] = torch.zeros_like(weight)
                if not (group["orthogonal"] and is_matrix(weight)):
                    self.state[weight]["exp_avg_sq"] = torch.zeros_like(weight)
                    self.state[weight]["step"] = torch.zeros((), device=weight.device)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update, in place; nothing waits for the device."""
        for group in self.param_groups:
            alike = defaultdict(list)  # matrices of one shape are orthogonalised together
            others = []
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if group["orthogonal"] and is_matrix(weight):
                    alike[weight.shape].append(weight)
                else:
                    others.append(weight)
            for weights in alike.values():
                self.turn(weights, group)
            if others:
                self.adapt(others, group)

    def turn(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Muon, for weights of one shape."""
        gradients, means = gradients_of(weights), self.slots("exp_avg", weights)
        torch._foreach_lerp_(means, gradients, 1 - group["momentum"])
        matrices = torch.stack(torch._foreach_lerp(gradients, means, group["momentum"])).flatten(2)
        scale = SIZE * math.sqrt(max(matrices.shape[1:])) * group["lr"]
        updates = (orthogonalised(matrices) * scale).view(len(weights), *weights[0].shape)
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_sub_(weights, list(updates.to(weights[0].dtype).unbind()))

    def adapt(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """AdamW."""
        gradients = gradients_of(weights)
        means, squares, steps = (self.slots(name, weights) for name in ("exp_avg", "exp_avg_sq", "step"))
        torch._foreach_add_(steps, 1)
        torch._foreach_lerp_(means, gradients, 1 - BETAS[0])
        torch._foreach_mul_(squares, BETAS[1])
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - BETAS[1])
        shares = 1 - BETAS[0] ** steps[0], 1 - BETAS[1] ** steps[0]  # how much of the means has been seen
        spreads = torch._foreach_sqrt(torch._foreach_div(squares, shares[1]))
        torch._foreach_add_(spreads, 1e-8)
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        updates = torch._foreach_div(means, spreads)
        torch._foreach_mul_(updates, group["lr"] / shares[0])
        torch._foreach_sub_(weights, updates)

    def slots(self, name: str, weights: list[Tensor]) -> list[Tensor]:
        """What is remembered of some weights."""
        return [self.state[weight][name] for weight in weights]


def gradients_of(weights: list[Tensor]) -> list[Tensor]:
    """The gradients of weights that have one."""
    return [weight.grad for weight in weights if weight.grad is not None]
