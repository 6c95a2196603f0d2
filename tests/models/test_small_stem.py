"""ResNet-18, 34 and 50 with a small stem: published sizes, and one block of each kind told slowly."""

import pytest
import torch
from torch.nn import functional as F

from glmc.errors import UserError
from glmc.models import SMALL_IMAGE, build_backbone
from glmc.models.small_stem import BasicBlock, Bottleneck


@pytest.mark.parametrize(
    ("name", "features", "whole"),
    [("resnet18_small", 512, 11_468_552), ("resnet34_small", 512, 21_576_712), ("resnet50_small", 2048, 24_500_488)],
)
def test_with_the_heads_of_glmc_they_have_their_published_sizes(name, features, whole):
    backbone = build_backbone(name)
    heads = 2 * (features * 100 + 100) + (features * 256 + 256) + (256 * 256 + 256)  # two classifiers of 100 classes
    assert sum(p.numel() for p in backbone.parameters()) == whole - heads
    assert backbone.out_dim == features
    assert name in SMALL_IMAGE


@pytest.mark.parametrize("name", ["resnet18_small", "resnet50_small"])
def test_the_stem_keeps_the_size_and_three_stages_halve_it(name):
    net = build_backbone(name, channels=1).net.eval()
    with torch.inference_mode():
        x = F.relu(net.bn1(net.conv1(torch.randn(1, 1, 9, 16))))
        shapes = [tuple(x.shape)]
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = stage(x)
            shapes.append(tuple(x.shape))
    k = 4 if name == "resnet50_small" else 1
    stages = [(1, 64 * k, 9, 16), (1, 128 * k, 5, 8), (1, 256 * k, 3, 4), (1, 512 * k, 2, 2)]
    assert shapes == [(1, 64, 9, 16), *stages]


def normalised(x, norm):
    """BatchNorm at test time, by its formula."""
    mean, var = norm.running_mean.view(-1, 1, 1), norm.running_var.view(-1, 1, 1)
    return (x - mean) / (var + 1e-5).sqrt() * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)


def shake(block):
    for norm in block.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
                torch.nn.init.uniform_(tensor, 0.5, 1.5)
    return block.double().eval()


@pytest.mark.parametrize("stride", [1, 2])
def test_a_basic_block_is_its_formula(stride):
    block = shake(BasicBlock(4, 4 * stride, stride))
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    y = normalised(F.conv2d(x, block.conv1.weight, stride=stride, padding=1), block.bn1).clamp(min=0)
    y = normalised(F.conv2d(y, block.conv2.weight, padding=1), block.bn2)
    past = x if stride == 1 else normalised(F.conv2d(x, block.shortcut[0].weight, stride=2), block.shortcut[1])
    assert len(block.shortcut) == 2 * (stride - 1)
    assert (block(x) - (y + past).clamp(min=0)).abs().max() < 1e-12


def test_a_bottleneck_strides_in_its_3x3_convolution():
    block = shake(Bottleneck(8, 4, stride=2))
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    y = normalised(F.conv2d(x, block.conv1.weight), block.bn1).clamp(min=0)
    y = normalised(F.conv2d(y, block.conv2.weight, stride=2, padding=1), block.bn2).clamp(min=0)
    y = normalised(F.conv2d(y, block.conv3.weight), block.bn3)
    past = normalised(F.conv2d(x, block.shortcut[0].weight, stride=2), block.shortcut[1])
    assert (block(x) - (y + past).clamp(min=0)).abs().max() < 1e-12


def test_gradients_reach_every_weight_and_two_views_pass_at_once():
    backbone = build_backbone("resnet18_small")
    backbone(torch.randn(4, 3, 8, 8), groups=2).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in backbone.parameters())
    assert backbone.net.bn1.num_batches_tracked == 2


def test_weights_start_as_torchs_layers_do():
    """Uniform within 1 / sqrt(fan-in), unlike the He-normal ones of the narrow small-image networks."""
    weight = build_backbone("resnet18_small").net.layer2[1].conv1.weight
    bound = (128 * 9) ** -0.5
    assert 0.99 * bound < weight.abs().max() <= bound


def test_there_are_no_weights_to_fetch():
    with pytest.raises(UserError, match="no published weights for resnet18_small"):
        build_backbone("resnet18_small", pretrained=True)
