"""Adapters: they begin as nothing, have the published sizes, and are all that learns and all that is saved anew."""

import copy
from unittest.mock import Mock

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer

from glmc import recipe
from glmc.deploy import export
from glmc.errors import UserError
from glmc.models import adapters, build_backbone
from glmc.runs import checkpoint, result
from glmc.runs.trained import find_checkpoint, load_trained
from glmc.train import run as training
from glmc.train import stages

CALL = {"command": "glmc", "quiet": True, "since": 0.0}
pytestmark = pytest.mark.usefixtures("no_report")
VIT = """
data:    {name: folder, root: photos, size: 160, batch_size: 8, cache: false}
views:   {train: [flip], test: []}
model:   {name: test_vit, adapter: {name: adaptformer}}
method:  {name: supervised}
loss:    {name: balanced_softmax}
mixture: {name: none}
optim:   {name: sgd, lr: 0.01, weight_decay: 5e-4}
train:   {epochs: 2, precision: float32, device: cpu, save_minutes: 1.0e-6}
"""


def small(block=Block):
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=16, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0, block_fn=block
    ).eval()


def test_sizes_are_the_published_ones():
    """LIFT trains 617,868 parameters in a ViT-B/16 with bottlenecks of 32, beside the classifier."""
    with torch.device("meta"):
        net = timm.create_model("vit_base_patch16_clip_quickgelu_224", num_classes=0)
        added = adapters.adapt(net, "vit", "adaptformer", adapters.usual_width(1000, len(adapters.blocks(net))))
    assert sum(parameter.numel() for parameter in added) == 617_868


@pytest.mark.parametrize("block", [Block, ResPostBlock])
@pytest.mark.parametrize("kind", ["adaptformer", "lora", "bitfit"])
def test_they_begin_as_nothing_and_copies_are_their_own(kind, block):
    plain, images = small(block), torch.randn(3, 3, 16, 16)
    net = copy.deepcopy(plain)
    added = adapters.adapt(net, "vit", kind, 4)
    assert torch.equal(net(images), plain(images))
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in added:
            parameter += 0.1 * torch.randn_like(parameter)
    assert not torch.allclose(net(images), plain(images), atol=1e-3)
    assert torch.equal(twin(images), plain(images))


def test_a_bottleneck_is_beside_the_mlp():
    net = small()
    adapters.adapt(net, "vit", "adaptformer", 4)
    block, tokens = net.blocks[0], torch.randn(2, 5, 32)
    with torch.no_grad():
        block.adapter.up.weight.normal_()
        between = tokens + block.attn(block.norm1(tokens))
        normed = block.adapter.norm(between)
        low = (normed @ block.adapter.down.weight.T + block.adapter.down.bias).clamp(min=0)
        added = block.adapter.scale * (low @ block.adapter.up.weight.T + block.adapter.up.bias)
        torch.testing.assert_close(block(tokens), between + block.mlp(block.norm2(between)) + added)


def test_nothing_is_left_of_a_pass_that_failed(monkeypatch):
    net, images = small(), torch.randn(3, 3, 16, 16)
    for parameter in adapters.adapt(net, "vit", "adaptformer", 4):
        torch.nn.init.normal_(parameter, std=0.1)
    answers = net(images)
    with monkeypatch.context() as patch:
        patch.setattr(net.blocks[0].mlp, "forward", Mock(side_effect=MemoryError))
        with pytest.raises(MemoryError):
            net(torch.randn(3, 3, 16, 16))
    assert torch.equal(net(images), answers)


def test_low_rank_terms_become_weights():
    net, images = small(), torch.randn(3, 3, 16, 16)
    names = list(net.state_dict())
    for parameter in adapters.adapt(net, "vit", "lora", 4):
        torch.nn.init.normal_(parameter, std=0.1)
    answers = net(images)
    keys = net.blocks[0].attn.lora.change()[32:64]
    assert not keys.any()
    adapters.merge(net)
    assert list(net.state_dict()) == names
    torch.testing.assert_close(net(images), answers)


@pytest.mark.parametrize(
    ("name", "kind", "sentence"),
    [
        ("resnet32", "adaptformer", "resnet32 has no transformer blocks to adapt; .*model.freeze=true"),
        ("eva02_tiny_patch14_224", "lora", "not compute queries and values in one linear layer"),
    ],
)
def test_a_network_that_cannot_be_adapted_is_refused(name, kind, sentence):
    with torch.device("meta"), pytest.raises(UserError, match=sentence):
        build_backbone(name, adapter={"name": kind, "width": 4})


@pytest.fixture
def place(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for part, label in [(part, label) for part in ("train", "test") for label in "ab"]:
        (tmp_path / "photos" / part / label).mkdir(parents=True)
        for image in range(9):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / part / label / f"{image}.png")
    (tmp_path / "vit.yaml").write_text(VIT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_low_rank_terms_are_exported_as_timms_own_weights(place):
    """Writing the folder compares its logits with the network's."""
    wanted = recipe.load("vit.yaml", ["model.adapter.name=lora", "optim.lr=1", "train.epochs=1"])
    run = training.train(wanted, place / "run", **CALL)
    folder = export.export(str(run), "timm", None, quiet=True)
    learnt = load_file(folder / "learnt.safetensors")
    assert sorted(learnt) == sorted(find_checkpoint(run).tensors("weights"))
    found = result.read(run)
    assert found.learnt == sum(tensor.numel() for tensor in learnt.values())
    assert found.partly == f", {found.learnt:,} of them trained"
    assert not any("lora" in name for name in load_file(folder / "model.safetensors"))


def test_a_run_saves_what_learns_and_keeps_the_rest_once(place):
    run = training.train(recipe.load("vit.yaml"), place / "run", **CALL)
    first, last = sorted((run / "checkpoints").iterdir())
    frozen = (first / "frozen.safetensors").stat(), (last / "frozen.safetensors").stat()
    assert frozen[0].st_ino == frozen[1].st_ino
    assert (last / "weights.safetensors").stat().st_size < frozen[1].st_size / 10

    point = find_checkpoint(run)
    method = load_trained(point, recipe.parse_settled(point.state["recipe"])).method
    learnt, kept = point.tensors("weights"), point.tensors(checkpoint.FROZEN)
    before = checkpoint.read(first)
    assert learnt.keys() | kept.keys() == method.state_dict().keys()
    assert all("adapter" in name or name.startswith("classifier") for name in learnt)
    assert any(not torch.equal(tensor, before.tensors("weights")[name]) for name, tensor in learnt.items())
    assert all(torch.equal(tensor, before.tensors(checkpoint.FROZEN)[name]) for name, tensor in kept.items())

    (run / "result.json").unlink()
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    training.resume(run, **CALL)
    again = find_checkpoint(run).tensors("weights")
    assert all(torch.equal(again[name], tensor) for name, tensor in learnt.items())
    frozen = last / "frozen.safetensors"
    content = frozen.read_bytes()
    frozen.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    said = []
    assert find_checkpoint(run, said.append).step == before.step
    assert "frozen.safetensors is damaged" in said[0]
    frozen.write_bytes(content)
    stages.finetune(run, "tau_norm", (), place / "balanced", **CALL)
    second = stages.finetune(run, "lws", ("train.epochs=1",), place / "scaled", **CALL)
    kept = find_checkpoint(second).weights()
    assert all(torch.equal(kept[name], t) for name, t in method.state_dict().items() if name.startswith("backbone"))
    with pytest.raises(UserError, match="only the formats onnx and torch-export"):
        export.export(str(run), "timm", None, quiet=True)
