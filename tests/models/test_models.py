"""Backbones: sizes, BatchNorm for several views, weights from files, sentences for what does not work."""

import pytest
import torch
from safetensors.torch import save_file

from glmc.errors import UserError
from glmc.models import Backbone, build_backbone
from glmc.models.batch_norm import split_by_view
from glmc.models.cifar_resnet import CifarResNet
from glmc.models.heads import linear, start_heads


@pytest.mark.parametrize(
    ("name", "parameters", "features"),
    [("resnet32", 463_504, 64), ("resnet32_w64", 7_383_616, 256), ("resnet20", 269_072, 64), ("resnet56", 852_368, 64)],
)
def test_the_small_image_networks_have_their_published_sizes(name, parameters, features):
    backbone = build_backbone(name)
    assert sum(p.numel() for p in backbone.parameters()) == parameters
    assert backbone.out_dim == features
    assert backbone.eval()(torch.randn(2, 3, 32, 32)).shape == (2, features)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "resnet18", "ghostnet_050", "vit_tiny_patch16_224"])
def test_a_timm_networks_features_have_the_length_it_is_given(name):
    backbone = build_backbone(name).eval()
    side = 224 if name.startswith("vit") else 32
    assert backbone(torch.randn(1, 3, side, side)).shape == (1, backbone.out_dim)


def last_scales(name, **options):
    """The scale of the last BatchNorm of every residual branch."""
    blocks = [m for m in build_backbone(name, **options).net.modules() if hasattr(m, "conv2") and hasattr(m, "bn2")]
    return [getattr(block, "bn3", block.bn2).weight for block in blocks]


@pytest.mark.parametrize(("name", "blocks"), [("resnet18", 8), ("resnext50_32x4d", 16), ("resnet20", 9)])
def test_residual_branches_begin_as_zero_or_not(name, blocks):
    """timm's begin as zero by default, those of the published ResNeXt-50 and of our own networks do not."""
    assert len(last_scales(name)) == blocks
    assert all(scale.eq(1).all() for scale in last_scales(name, zero_residual=False))
    assert all(scale.eq(name == "resnet20").all() for scale in last_scales(name))


def test_only_the_residual_branches_depend_on_it():
    states = []
    for zero in (True, False):
        torch.manual_seed(0)
        states.append(build_backbone("resnet18", zero_residual=zero).state_dict())
    different = {name for name in states[0] if not torch.equal(states[0][name], states[1][name])}
    assert different == {f"net.layer{stage}.{block}.bn2.weight" for stage in (1, 2, 3, 4) for block in (0, 1)}


@pytest.mark.parametrize(("name", "value"), [("resnet32", True), ("vit_tiny_patch16_224", False), ("dla34", True)])
def test_networks_without_such_branches_say_so(name, value):
    with pytest.raises(UserError, match=rf"^model.zero_residual: .*{name}.*; set it to null$"):
        build_backbone(name, zero_residual=value)


def test_heads_compute_in_float32_under_autocast():
    head, x = linear(8, 4), torch.randn(3, 8)
    wanted = head(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(x), wanted)
        assert head(x.bfloat16()).dtype == torch.float32


def test_grey_images_and_odd_sizes_pass():
    assert build_backbone("resnet20", channels=1)(torch.randn(2, 1, 9, 9)).shape == (2, 64)


def test_the_shortcut_takes_every_second_pixel_and_pads_channels():
    net = CifarResNet(8, width=4)
    block = net.layer2[0].eval()
    torch.nn.init.zeros_(block.conv2.weight)  # the residual branch says nothing: only the shortcut is left
    x = torch.rand(1, 4, 6, 6)
    y = block(x)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert y[:, :2].abs().sum() == y[:, 6:].abs().sum() == 0


def pair(kind):
    torch.manual_seed(0)
    return Backbone(CifarResNet(8, width=4), 16, kind).double().train()


@pytest.mark.parametrize("compiled", [False, True])
def test_split_equals_two_pass(compiled):
    """One pass with statistics for each view: outputs, gradients and running averages of the published two passes."""
    split, two_pass = pair("split"), pair("two_pass")
    if compiled:  # one reduction over both views
        split.forward = torch.compile(split.forward, backend="aot_eager")
    for step in range(3):
        x = torch.randn(6, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        x[3:] *= 0.5  # the views differ in variance, as MixUp and CutMix do
        out = []
        for backbone in (split, two_pass):
            backbone.zero_grad()
            y = backbone(x, groups=2)
            y.pow(3).mean().backward()
            out.append(y)
        assert (out[0] - out[1]).abs().max() < 1e-12
        for a, b in zip(split.parameters(), two_pass.parameters(), strict=True):
            assert (a.grad - b.grad).abs().max() < 1e-12 * max(1, b.grad.abs().max())
    for (name, a), (_, b) in zip(split.state_dict().items(), two_pass.state_dict().items(), strict=True):
        assert (a - b).abs().max() < 1e-12, name
    assert split.state_dict()["net.bn1.num_batches_tracked"] == 6  # two views a step


def test_weights_cast_together_give_the_gradients_of_autocast():
    """Bit for bit, also where a part of the network is frozen."""
    backbone, plain = Backbone(CifarResNet(8, width=4), 16, "split"), CifarResNet(8, width=4)
    plain.load_state_dict(backbone.net.state_dict())
    x = torch.rand(4, 3, 8, 8)
    for net in (backbone.net, plain):
        net.layer1.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        features = [backbone(x), plain(x)]
        assert torch.equal(Backbone(torch.nn.Flatten(), 192, "split")(x), x.flatten(1))  # no weights at all
    for each in features:
        each.float().pow(2).sum().backward()
    assert torch.equal(*features)
    for (name, a), b in zip(backbone.net.named_parameters(), plain.parameters(), strict=True):
        assert a.grad is b.grad is None or torch.equal(a.grad, b.grad), name


def test_joint_statistics_differ_from_split():
    x = torch.randn(6, 3, 16, 16, dtype=torch.float64)
    x[3:] *= 0.5
    assert (pair("joint")(x, groups=2) - pair("split")(x, groups=2)).abs().max() > 1e-3


def test_timm_networks_get_statistics_for_each_view_too():
    backbone = build_backbone("mobilenetv3_small_050").double().train()  # its BatchNorm is timm's own, with activation
    reference = build_backbone("mobilenetv3_small_050", batch_norm="two_pass").double().train()
    reference.load_state_dict(backbone.state_dict())
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64) * torch.tensor([1, 1, 3, 3]).view(4, 1, 1, 1)
    for one, other in ((backbone, reference),):
        a, b = one(x, groups=2), other(x, groups=2)
    assert (a - b).abs().max() < 1e-10


def test_evaluation_ignores_groups_and_keys_stay_those_of_the_network():
    backbone = build_backbone("resnet20").eval()
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(backbone(x, groups=2), backbone(x))
    assert set(backbone.net.state_dict()) == set(CifarResNet(20).state_dict())
    assert split_by_view(torch.nn.Linear(2, 2)) == []


def test_weights_come_from_a_file(tmp_path):
    source = CifarResNet(20)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "weights.pth")
    for file in ("weights.safetensors", "weights.pth"):
        loaded = build_backbone("resnet20", pretrained=str(tmp_path / file)).net
        assert torch.equal(loaded.layer3[2].conv2.weight, source.layer3[2].conv2.weight)


class Gadget:
    """What a hostile file of weights would hold: code that runs when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (self.target, "w"))


def test_a_hostile_file_of_weights_is_refused_without_running_it(tmp_path):
    torch.save(Gadget(str(tmp_path / "executed")), tmp_path / "weights.pth")
    with pytest.raises(UserError, match="not a readable file of weights"):
        build_backbone("resnet20", pretrained=str(tmp_path / "weights.pth"))
    (tmp_path / "cut.safetensors").write_bytes(b"\0" * 9)
    with pytest.raises(UserError, match="not a readable file of weights: it is damaged"):  # without SafetensorError
        build_backbone("resnet20", pretrained=str(tmp_path / "cut.safetensors"))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("name", "pretrained", "sentence"),
    [
        ("resnet23", False, "did you mean resnet"),
        ("resnet32", True, "no published weights for resnet32"),
        ("resnet20", "nowhere.pth", "there is no such file"),
    ],
)
def test_what_cannot_be_built_is_said(name, pretrained, sentence):
    with pytest.raises(UserError, match=sentence):
        build_backbone(name, pretrained=pretrained)


def test_weights_of_another_network_name_what_does_not_fit(tmp_path):
    save_file(CifarResNet(32).state_dict(), tmp_path / "r32.safetensors")
    with pytest.raises(UserError, match=r"it has no layer1.5.conv1.weight \(and \d+ more\)"):
        build_backbone("resnet44", pretrained=str(tmp_path / "r32.safetensors"))


@pytest.mark.parametrize(
    ("how", "he", "zero"), [("he_zero", True, True), ("he_uniform", True, False), ("uniform", False, False)]
)
def test_heads_start_as_they_are_told(how, he, zero):
    torch.manual_seed(0)
    heads = torch.nn.ModuleList([linear(64, 500), torch.nn.Linear(3, 2)])
    foreign = heads[1].weight.clone()
    start_heads(heads, how)
    weight, bias = heads[0].weight, heads[0].bias
    assert weight.std().item() == pytest.approx((2 / 64) ** 0.5 if he else (1 / 64 / 3) ** 0.5, rel=0.03)
    assert (weight.abs().max() > 1 / 8) == he
    assert bias.eq(0).all() == zero
    assert zero or bias.abs().max().item() == pytest.approx(1 / 8, rel=0.03)  # uniform within 1 / sqrt(64)
    assert torch.equal(heads[1].weight, foreign)
