"""Pretrained backbones: features that are kept, what classifiers begin as, files in others' layouts."""

import functools
import json
import shutil
import zipfile

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from glmc import recipe
from glmc.errors import UserError
from glmc.models import Backbone, build_backbone, heads, text
from glmc.models.pretrained import load_pretrained
from glmc.runs import trained
from glmc.runs.trained import find_checkpoint, load_trained
from glmc.train import run as training

CALL = {"command": "glmc", "quiet": True, "since": 0.0}
pytestmark = pytest.mark.usefixtures("no_report")
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
        ("train.progressive={side: 0.5, until: 0.5}", "set train.progressive to null"),
        ("mixture.name=mixup", "set mixture="),
        ("model.freeze=false", "needs model.freeze=true"),
        ("model.adapter={name: lora}", "an adapter learns from images, not from features; set model.adapter to null"),
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


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A folder of open_clip's with random weights; its images have 64 features before their projection to 16."""
    import open_clip  # takes seconds

    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 64, "layers": 1},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    folder = tmp_path_factory.mktemp("clip")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    save_file(open_clip.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def test_a_row_scores_features_as_the_text_encoder_scores_their_images(clip):
    import open_clip

    address = f"local-dir:{clip}"
    model, before = open_clip.create_model(address).eval(), []
    model.visual.ln_post.register_forward_hook(lambda *call: before.append(call[-1][:, 0]))
    tokens = open_clip.get_tokenizer(address)(["a photo of a sea lion.", "a photo of a ox."])
    with torch.no_grad():
        scores = model.encode_image(torch.rand(5, 3, 16, 16)) @ model.encode_text(tokens, normalize=True).T
    rows = text.class_names(["Sea_lion", "ox"], "test_vit", str(clip))
    torch.testing.assert_close(before[0] @ rows.T, scores)


def test_a_classifier_begins_as_the_names_of_the_classes(place, clip):
    overrides = ["model.cached=false", "model.heads=class_names", f"model.text={clip}", "optim.lr=1e-30"]
    run = training.train(recipe.load("probe.yaml", overrides), place / "run", **CALL)
    rows = text.class_names(["a", "b", "c"], "resnet20", str(clip))
    torch.testing.assert_close(find_checkpoint(run).weights()["classifier.weight"], F.normalize(rows))
    wide = ["model.name=resnet20_w64", "model.pretrained=false"]
    with pytest.raises(UserError, match="have features of 64 numbers, those of resnet20_w64 have 256"):
        training.train(recipe.load("probe.yaml", [*overrides, *wide]), place / "wide", **CALL)


@pytest.mark.parametrize(
    ("classes", "encoder", "sentence"),
    [
        (("Sea_lion", "ox", "sea lion"), ".", "'Sea_lion' and 'sea lion' are the same prompt"),
        (("0", "1"), ".", "the class '0' is not a word"),
        (("a", "b"), None, "no text encoder is known for resnet20; set model.text"),
        (("a", "b"), "nowhere", "model.text=nowhere: no such folder, .*HF_HUB_OFFLINE is set"),
        (("a", "b"), ".", "model.text=.: not a text encoder that open_clip reads"),
    ],
)
def test_names_and_encoders_that_do_not_serve(tmp_path, monkeypatch, classes, encoder, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=sentence):
        text.class_names(classes, "resnet20", encoder)


def test_an_exported_file_says_which_network_it_is_and_how_images_are_normalised(place):
    images = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "size": 32}
    header = {"glmc": json.dumps({"network": "resnet20", "preprocessing": images})}
    save_file(torch.load("net.pth"), "mine.safetensors", header)
    run = training.train(recipe.load("probe.yaml", ["model.pretrained=mine.safetensors"]), place / "run", **CALL)
    data = recipe.parse_settled(find_checkpoint(run).state["recipe"]).data
    assert (data.mean, data.std, data.size) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], 8)  # the recipe's size wins
    another = recipe.load("probe.yaml", ["model.pretrained=mine.safetensors", "model.name=resnet32"])
    with pytest.raises(UserError, match=r"weights of resnet20, and model\.name is resnet32"):
        training.train(another, place / "another", **CALL)


def test_scaled_cosines():
    layer = heads.Cosine(4, 3, scale=25.0)
    x = torch.randn(5, 4)
    torch.testing.assert_close(layer(x), 25 * F.cosine_similarity(x[:, None], layer.weight[None], dim=-1))


def openai(state):
    """As OpenAI's CLIP has it, and open_clip: other names, a projection that is not ours, and the text's tower."""
    words = {
        "patch_embed.proj": "conv1", "norm_pre": "ln_pre", "norm.": "ln_post.", "blocks.": "transformer.resblocks.",
        "norm1": "ln_1", "norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "attn.proj": "attn.out_proj",
        "qkv.weight": "in_proj_weight", "qkv.bias": "in_proj_bias",
    }  # fmt: skip
    theirs = {"logit_scale": torch.ones(()), "visual.proj": torch.ones(64, 32), "ln_final.weight": torch.ones(32)}
    theirs |= {"positional_embedding": torch.ones(77, 32), "transformer.resblocks.0.ln_1.weight": torch.ones(32)}
    for key, value in state.items():
        theirs["visual." + functools.reduce(lambda word, ours: word.replace(ours, words[ours]), words, key)] = value
    theirs["visual.class_embedding"] = theirs.pop("visual.cls_token")[0, 0]
    theirs["visual.positional_embedding"] = theirs.pop("visual.pos_embed")[0]
    return theirs


def with_registers(state):
    """As DINOv2 has it: the class token has a position, the registers have none."""
    before = state["cls_token"]
    theirs = {key: value for key, value in state.items() if key not in ("cls_token", "reg_token", "pos_embed")}
    theirs |= {"cls_token": state["cls_token"] - before, "register_tokens": state["reg_token"]}
    return theirs | {"pos_embed": torch.cat([before, state["pos_embed"]], dim=1), "mask_token": torch.zeros(1, 64)}


def behind(prefix, state):
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    ("name", "parts", "written", "layout"),
    [
        ("test_vit", {"pre_norm": True}, {}, openai),
        ("test_vit", {"pre_norm": True}, {}, lambda state: {key: x.half() for key, x in openai(state).items()}),
        ("test_vit", {}, {}, lambda state: behind("visual.trunk.", state) | {"text.ln_final.weight": torch.ones(3)}),
        ("test_vit", {"init_values": 1.0}, {}, lambda state: state | {"mask_token": torch.zeros(1, 64)}),
        ("test_vit", {"init_values": 1.0}, {"img_size": 80}, lambda state: state | {"mask_token": torch.zeros(1, 64)}),
        ("test_vit", {"init_values": 1.0, "reg_tokens": 4, "no_embed_class": True}, {}, with_registers),
        ("test_vit", {}, {}, lambda state: {"teacher": behind("backbone.", state) | {"dino_head.bias": torch.ones(3)}}),
        ("test_vit", {}, {}, lambda state: {"model": state | {"mask_token": torch.zeros(1, 1, 64),
                                                              "decoder_blocks.0.norm1.weight": torch.ones(32)}}),
        ("test_resnet", {}, {}, lambda state: {"model": state | {"fc.weight": torch.ones(1000, 64)}, "epoch": 300}),
        ("test_resnet", {}, {}, lambda state: {"state_dict": behind("module.", state), "optimizer": {}}),
    ],
    ids=["openai", "openai in half precision", "open_clip with a tower of timm's", "DINOv2", "DINOv2 of small images",
         "DINOv2 with registers", "DINOv2's teacher", "MAE", "DeiT's wrapper", "several GPUs"],
)  # fmt: skip
def test_files_in_the_layouts_of_others(name, parts, written, layout, tmp_path):
    """The network that is loaded gives the features of the one that the file was written from."""
    torch.manual_seed(0)
    theirs, ours = (timm.create_model(name, num_classes=0, **parts, **more).eval() for more in (written, {}))
    theirs.half().float()
    torch.save(layout(theirs.state_dict()), tmp_path / "net.pth")
    load_pretrained(ours, tmp_path / "net.pth")
    images = torch.randn(2, 3, 160, 160)  # with position embeddings for fewer patches, `theirs` resamples them
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        ({"depth": 2}, r"it has no blocks.2.norm1.weight \(and 47 more\)"),
        ({"depth": 7}, r"it holds blocks.6.norm1.weight \(and 11 more\), for which there is no place"),
        ({"init_values": 1.0}, r"it holds blocks.0.ls1.gamma \(and 11 more\)"),
        ({"pre_norm": True}, r"it has no patch_embed.proj.bias"),
        ({"reg_tokens": 1, "no_embed_class": True}, r"its pos_embed is 1x100x64"),
        ({"patch_size": 8}, r"its patch_embed.proj.weight is 64x3x8x8 \(float32\) instead of 64x3x16x16 \(float32\)"),
        ({"in_chans": 1}, r"its patch_embed.proj.weight is 64x1x16x16 \(float32\) instead of 64x3x16x16"),
    ],
)
def test_a_network_of_other_parts_is_refused(parts, fault, tmp_path):
    """Also one with more of them, which would answer something else without them."""
    torch.save(timm.create_model("test_vit", **parts).state_dict(), tmp_path / "net.pth")
    with pytest.raises(UserError, match=f"net.pth: does not fit the network of model.name: {fault}.*; set model.name"):
        build_backbone("test_vit", pretrained=str(tmp_path / "net.pth"))


def test_a_torchscript_program_is_told_from_damage(tmp_path):
    with zipfile.ZipFile(tmp_path / "clip.pt", "w") as archive:
        archive.writestr("clip/constants.pkl", b"")
    with pytest.raises(UserError, match=r"TorchScript program: save torch.jit.load\(FILE\).state_dict\(\)"):
        build_backbone("resnet20", pretrained=str(tmp_path / "clip.pt"))
