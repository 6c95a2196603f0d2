"""Muon: against PyTorch's own Muon and AdamW, and on kernels."""

import copy

import torch
from torch import nn

from glmc.train.muon import Muon, orthogonalised

LR, DECAY, MOMENTUM = 0.01, 0.1, 0.95


def group(weights, *, orthogonal):
    return {"params": weights, "lr": torch.tensor(LR), "orthogonal": orthogonal}


def stepped(optimizers, weights, steps=3):
    """Some steps with the same gradients for each list of weights."""
    for seed in range(steps):
        for alike in weights:
            generator = torch.Generator().manual_seed(seed)
            for weight in alike:
                weight.grad = torch.randn(weight.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()


def test_matrices_move_as_by_pytorch_s_muon_and_all_else_as_by_its_adamw():
    network = nn.Sequential(nn.Linear(64, 48), nn.BatchNorm1d(48), nn.Linear(48, 10))
    theirs = copy.deepcopy(network)
    matrix, *rest = network.parameters()
    ours = Muon([group([matrix, *rest[:3]], orthogonal=True), group(rest[3:], orthogonal=False)],
                momentum=MOMENTUM, weight_decay=DECAY)  # fmt: skip
    other_matrix, *other_rest = theirs.parameters()
    muon = torch.optim.Muon(
        [other_matrix], lr=LR, weight_decay=DECAY, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(other_rest, lr=LR, weight_decay=DECAY, betas=(0.9, 0.99))
    stepped([ours, muon, adamw], [list(network.parameters()), list(theirs.parameters())])
    torch.testing.assert_close(matrix, other_matrix, atol=2e-3, rtol=0)  # PyTorch's computes in bfloat16
    for one, other in zip(rest, other_rest, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_a_kernel_moves_as_the_matrix_with_a_row_for_each_channel_it_makes():
    kernel = nn.Parameter(torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last))
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    for weight in (kernel, matrix):
        optimizer = Muon([group([weight], orthogonal=True)], momentum=MOMENTUM, weight_decay=DECAY)
        stepped([optimizer], [[weight]])
    torch.testing.assert_close(kernel.flatten(1), matrix)


def test_singular_values_come_near_one_whatever_they_were():
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 16, 144), (3, 144, 16), (1, 32, 64)):
        spread = torch.logspace(-1, 0, shape[2])  # columns of very different lengths
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape, generator=generator) * spread))
        assert values.min() > 0.5
        assert values.max() < 1.3
