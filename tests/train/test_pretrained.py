"""Pretrained backbones: features that are kept, classifiers that begin as class means, files in others' layouts."""

import functools
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from glmc import recipe
from glmc.errors import UserError
from glmc.models import Backbone, build_backbone, heads
from glmc.runs import trained
from glmc.runs.trained import find_checkpoint, load_trained
from glmc.train import run as training

CALL = {"command": "glmc", "quiet": True, "since": 0.0}
PROBE = """
data:    {name: folder, root: photos, size: 8, batch_size: 6}
views:   {train: [], test: []}
model:   {name: resnet20, pretrained: net.pth, freeze: true, cached: true}
method:  {name: supervised, head: cosine, scale: 10.0}
loss:    {name: balanced_softmax}
mixture: {name: none}
optim:   {name: sgd, lr: 0.1, weight_decay: 0.0}
train:   {epochs: 2, precision: float32, device: cpu}
eval:    {flip_tta: false}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for part, counts in (("train", (9, 6, 3)), ("test", (3, 3, 3))):
        for label, number in zip("abc", counts, strict=True):
            (tmp_path / "photos" / part / label).mkdir(parents=True)
            for image in range(number):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / part / label / f"{image}.png")
    torch.manual_seed(0)
    torch.save(build_backbone("resnet20").net.state_dict(), tmp_path / "net.pth")
    (tmp_path / "probe.yaml").write_text(PROBE)
    monkeypatch.setenv("GLMC_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_features_are_computed_once_and_the_run_is_the_same(place, monkeypatch):
    """As with the images in each epoch; a second run, of another seed, does not ask the network again."""
    kept = training.train(recipe.load("probe.yaml"), place / "kept", **CALL)
    anew = training.train(recipe.load("probe.yaml", ["model.cached=false"]), place / "anew", **CALL)
    for name, tensor in find_checkpoint(anew).weights().items():
        torch.testing.assert_close(find_checkpoint(kept).weights()[name], tensor)
    assert trained.test(kept, (), quiet=True)["test"] == pytest.approx(trained.test(anew, (), quiet=True)["test"])

    seen = []
    encode = Backbone.encode
    monkeypatch.setattr(Backbone, "encode", lambda net, x, *more: seen.append(x.ndim) or encode(net, x, *more))
    training.train(recipe.load("probe.yaml", ["train.seed=1"]), place / "again", **CALL)
    assert seen.count(4) == 1  # an empty image, on which the network is tried


def test_a_run_on_kept_features_is_resumed_with_its_own_network(place):
    """To the same bits, also where neither the file of weights nor the cache is there any more."""
    run = training.train(recipe.load("probe.yaml", ["train.save_minutes=1.0e-6"]), place / "run", **CALL)
    whole = find_checkpoint(run).weights()
    (run / "result.json").unlink()
    shutil.rmtree(find_checkpoint(run).path)
    shutil.rmtree(place / "cache")
    (place / "net.pth").unlink()
    training.resume(run, **CALL)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in find_checkpoint(run).weights().items())


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("views.train=[flip]", "set views.train to what views.test is"),
        ("eval.flip_tta=true", "set eval.flip_tta to false and eval.crops"),
        ("mixture.name=mixup", "set mixture="),
        ("model.freeze=false", "needs model.freeze=true"),
    ],
)
def test_what_happens_to_images_each_epoch_is_refused(place, override, sentence):
    with pytest.raises(UserError, match=sentence):
        training.train(recipe.load("probe.yaml", [override]), place / "run", **CALL)


def test_a_classifier_begins_as_the_class_means(place):
    overrides = ["model.cached=false", "model.heads=class_means", "optim.lr=1e-30"]
    run = training.train(recipe.load("probe.yaml", overrides), place / "run", **CALL)
    point = find_checkpoint(run)
    settled = recipe.parse_settled(point.state["recipe"])
    method = load_trained(point, settled).method.eval()
    mean, std = (torch.tensor(value)[:, None, None] for value in (settled.data.mean, settled.data.std))
    files = [sorted((place / "photos/train" / label).iterdir()) for label in "abc"]
    with torch.no_grad():
        images = [
            [torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255 for file in each] for each in files
        ]
        rows = [method.backbone((torch.stack(each) - mean) / std).mean(0) for each in images]
    torch.testing.assert_close(method.classifier.weight, F.normalize(torch.stack(rows)))
    with pytest.raises(UserError, match="is for cosine classifiers"):
        training.train(
            recipe.load("probe.yaml", [*overrides[:2], "method={name: supervised}"]), place / "linear", **CALL
        )


def test_scaled_cosines():
    layer = heads.Cosine(4, 3, scale=25.0)
    x = torch.randn(5, 4)
    torch.testing.assert_close(layer(x), 25 * F.cosine_similarity(x[:, None], layer.weight[None], dim=-1))


def test_files_in_the_layout_of_open_clip(place):
    """Its vision tower: `visual.` before every name, other names, and a projection behind it that is not ours."""
    name, words = "vit_xsmall_patch16_clip_224", {
        "patch_embed.proj": "conv1", "norm_pre": "ln_pre", "norm.": "ln_post.", "blocks.": "transformer.resblocks.",
        "norm1": "ln_1", "norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "attn.proj": "attn.out_proj",
        "qkv.weight": "in_proj_weight", "qkv.bias": "in_proj_bias",
    }  # fmt: skip
    net = build_backbone(name).net
    theirs = {"logit_scale": torch.ones(()), "visual.proj": torch.ones(256, 64)}
    for key, value in net.state_dict().items():
        theirs["visual." + functools.reduce(lambda word, ours: word.replace(ours, words[ours]), words, key)] = value
    theirs["visual.class_embedding"] = theirs.pop("visual.cls_token")[0, 0]
    theirs["visual.positional_embedding"] = theirs.pop("visual.pos_embed")[0]
    torch.save(theirs, "clip.pth")
    found = build_backbone(name, pretrained="clip.pth").net.state_dict()
    assert all(torch.equal(found[key], value) for key, value in net.state_dict().items())
    with pytest.raises(UserError, match=r"clip.pth: does not fit this backbone; missing: \['patch_embed"):
        build_backbone("vit_tiny_patch16_224.augreg_in21k", pretrained="clip.pth")
