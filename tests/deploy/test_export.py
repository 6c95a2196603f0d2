"""Runs written for other programs: what the files predict, what lies beside them, and what is refused."""

import json
import re
import shutil
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from glmc import recipe, trust
from glmc.data import pictures
from glmc.deploy.export import FORMATS, compare, export, public
from glmc.errors import UserError
from glmc.inference import predict
from glmc.runs import checkpoint
from glmc.runs import trained as trained_run
from glmc.train import run

QUIET = {"command": "glmc", "quiet": True, "since": time.perf_counter()}
pytestmark = pytest.mark.usefixtures("no_report")
TEMPERATURE = 1.7


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A calibrated run of GLMC on grey 8 x 8 pixels."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    settings = ["train.max_steps=20", "train.precision=float32", "model.name=resnet20"]
    run.train(recipe.load("digits_lt/glmc", settings), out, **QUIET)
    prior = {str(digit): (digit + 1) / 55 for digit in range(10)}
    fitted = {"step": 20, "images": 90, "source": "pictures", "temperature": TEMPERATURE, "prior": prior}
    (out / "calibration.json").write_text(json.dumps(fitted))
    return out


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A run of cross entropy with a network of timm's, on photographs of 40 x 40 pixels of which it sees 32 x 32."""
    return photo_run(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def published_photos(tmp_path_factory):
    """Another one, whose photographs are read as the published code reads them."""
    return photo_run(tmp_path_factory.mktemp("published"), "data.resize=short_side", "data.exif=false")


def photo_run(home, *more):
    for part, count in (("train", 8), ("test", 3)):
        for label in range(3):
            place = home / "images" / part / f"class {label}"
            place.mkdir(parents=True)
            for i in range(count - 2 * label * (part == "train")):
                noise = np.random.default_rng([label, i]).integers(0, 200, (50, 44 + i, 3), dtype=np.uint8)
                noise[..., label] += 50
                Image.fromarray(noise).save(place / f"{i}.png")
    settings = [
        f"data={{name: folder, root: {json.dumps(str(home / 'images'))}, size: 40, batch_size: 6, cache: false}}"
    ]
    settings += ["views={train: [{resized_crop: {size: 32}}], test: [{center_crop: 32}]}", "model.name=test_resnet"]
    settings += ["train.max_steps=6", "train.precision=float32", "optim.lr=0.01", "expect=null", *more]
    return run.train(recipe.load("digits_lt/ce", settings), home / "run", **QUIET)


def right_logits(folder, images):
    """Logits and probabilities of a run for stored squares (uint8 [N, side, side, ch]), written out."""
    point = trained_run.find_checkpoint(folder)
    trained = trained_run.load_trained(point, recipe.parse(point.state["recipe"]))
    data = recipe.parse(point.state["recipe"]).data
    edge = 4 if data.size == 40 else 0
    cut = images[:, edge : data.size - edge, edge : data.size - edge]
    pixels = (cut / 255 - np.array(data.mean)) / np.array(data.std)
    with torch.no_grad():
        logits = trained.method.eval().predict(torch.tensor(pixels).float().permute(0, 3, 1, 2))
    settled = recipe.parse(point.state["recipe"])
    predicted = predict.log_probabilities_of(point, settled, trained, None, False, lambda _: None)  # by `glmc predict`
    return logits.numpy(), predicted(torch.from_numpy(images)).exp().numpy()


def digits_test():
    from glmc.data import sources

    split = sources.load("digits", root="").test
    return split.images, split.labels


def test_onnx_predicts_as_the_run_does(digits, tmp_path):
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    folder = export(str(digits), "onnx", tmp_path / "out", quiet=True)
    images, labels = digits_test()
    session = ort.InferenceSession(folder / "model.onnx")
    for part in (slice(0, 1), slice(0, 37), slice(None)):
        logits, probabilities = session.run(["logits", "probabilities"], {"images": images[part]})
        expected, shares = right_logits(digits, images[part])
        assert np.abs(logits - expected).max() < 1e-4
        assert np.abs(probabilities - shares).max() < 1e-5
    own = json.loads((digits / "result.json").read_text())
    assert 100 * (logits.argmax(1) == labels).mean() == pytest.approx(own["last"]["top1"])

    model = onnx.load(folder / "model.onnx")
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(said["classes"]) == [str(digit) for digit in range(10)]
    assert json.loads(said["temperature"]) == TEMPERATURE
    assert json.loads(said["preprocessing"])["size"] == 8
    assert [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        8,
        8,
        1,
    ]
    about = json.loads((folder / "glmc.json").read_text())
    assert about["weights_sha256"] == own["weights_sha256"]
    assert about["figures"]["last"] == own["last"]
    assert about["compared"]["images"] == "64 of its test images"
    assert about["answering_parameters"] < about["parameters"] == own["parameters"]


def test_torch_export_predicts_as_the_run_does_without_what_only_training_needs(digits, tmp_path):
    folder = export(str(digits), "torch-export", tmp_path / "out", quiet=True)
    program = torch.export.load(folder / "model.pt2")
    images, _ = digits_test()
    for part in (slice(0, 1), slice(0, 37)):
        logits, probabilities = program.module()(torch.from_numpy(images[part]))
        expected, shares = right_logits(digits, images[part])
        assert np.abs(logits.numpy() - expected).max() < 1e-4
        assert np.abs(probabilities.numpy() - shares).max() < 1e-5
    names = set(program.state_dict)
    assert {"method.rebalanced.weight", "method.backbone.net.conv1.weight", "scale"} <= names
    assert not [
        name for name in names if re.search("projector|predictor|method.classifier|class_weights|batches", name)
    ]
    about = json.loads((folder / "glmc.json").read_text())
    assert about["answering_parameters"] == sum(program.state_dict[n].numel() for n in names if is_parameter(n))


def is_parameter(name):
    return name.startswith("method.") and not name.endswith(("running_mean", "running_var"))


def test_timm_reads_the_folder_as_its_own(photos, tmp_path):
    import timm

    folder = export(str(photos), "timm", tmp_path / "out", quiet=True)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert model.pretrained_cfg["label_names"] == ["class 0", "class 1", "class 2"]
    wanted = timm.data.resolve_model_data_config(model)
    assert (wanted["input_size"], wanted["crop_pct"], wanted["interpolation"]) == ((3, 32, 32), 0.8, "bilinear")
    images = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), dtype=np.uint8)
    pixels = (images[:, 4:36, 4:36] / 255 - np.array(wanted["mean"])) / np.array(wanted["std"])
    with torch.no_grad():
        logits = model(torch.tensor(pixels).float().permute(0, 3, 1, 2))
    assert np.abs(logits.numpy() - right_logits(photos, images)[0]).max() < 1e-4


CARDS = [("digits", "safetensors"), ("published_photos", "safetensors"), ("published_photos", "timm")]


@pytest.mark.parametrize(("name", "kind"), [*CARDS, *[("photos", kind) for kind in FORMATS]])
def test_the_lines_on_the_card_run_and_are_right(name, kind, request, tmp_path, monkeypatch, capsys):
    """A sideways photograph that is no square, through the lines on the card and through our own reading."""
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    folder = request.getfixturevalue(name)
    out = export(str(folder), kind, tmp_path / "out", quiet=True)
    card = (out / "README.md").read_text()
    photo = np.random.default_rng(1).integers(0, 256, (61, 90, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = 6
    Image.fromarray(photo).save(out / "photo.jpg", exif=exif)
    monkeypatch.chdir(out)
    exec(re.search("```python\n(.*?)```", card, re.DOTALL)[1], {})
    label, share = capsys.readouterr().out.rsplit(maxsplit=1)
    about = json.loads((out / "glmc.json").read_text())
    reading = [about["preprocessing"][key] for key in ("size", "channels", "resize", "exif")]
    assert reading[2:] == (["short_side", False] if name == "published_photos" else ["square", True])
    _, shares = right_logits(folder, pictures.decode_image(out / "photo.jpg", *reading)[None])
    assert label == about["classes"][shares[0].argmax()]
    assert float(share) == pytest.approx(shares[0].max(), abs=1e-4)


def test_what_lies_beside_the_network(photos, tmp_path):
    out = export(str(photos), "safetensors", tmp_path / "out", quiet=True)
    about, card = json.loads((out / "glmc.json").read_text()), (out / "README.md").read_text()
    assert sorted(file.name for file in out.iterdir()) == ["README.md", "glmc.json", "model.safetensors"]
    assert about["counts"] == [8, 6, 4]
    top1 = json.loads((photos / "result.json").read_text())["last"]["top1"]
    assert f"| last epoch | {top1:.1f} |" in card
    assert "not a fair figure" in card
    assert "| class 2 | 4 | 3 |" in card  # few-shot classes are named, with what their figures rest on
    assert not [file for file in out.iterdir() if str(photos.parent).encode() in file.read_bytes()]
    (photos / "result.json").rename(tmp_path / "result.json")
    try:
        card = (export(str(photos), "safetensors", tmp_path / "again", quiet=True) / "README.md").read_text()
    finally:
        (tmp_path / "result.json").rename(photos / "result.json")
    assert "There are none: the run was not finished" in card
    other = recipe.load(
        "digits_lt/ce", ["data.root=/home/me/p", "model.pretrained=~/w.pth", "parent=/runs/a", "starts_from=all"]
    )
    assert (public(other).data.root, public(other).model.pretrained, public(other).parent) == ("p", "w.pth", None)


def test_without_the_images_it_compares_on_random_pixels_and_says_so(photos, tmp_path, capsys):
    copy = shutil.copytree(photos, tmp_path / "run")
    images, hidden = photos.parent / "images", photos.parent / "hidden"
    images.rename(hidden)
    try:
        out = export(str(copy), "safetensors", None)
    finally:
        hidden.rename(images)
    assert out == copy / "export-safetensors"
    assert json.loads((out / "glmc.json").read_text())["compared"]["images"] == "64 images of random pixels"
    assert "compared on random pixels, as there are no images: data.root=" in capsys.readouterr().out


def test_what_predicts_otherwise_is_not_kept(photos, tmp_path, monkeypatch):
    """A method whose prediction is more than its linear head."""
    (tmp_path / "louder.py").write_text(
        "from glmc.methods.supervised import Supervised\n"
        "class Louder(Supervised):\n"
        "    def predict(self, images):\n"
        "        return 2 * super().predict(images)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(trust, "_typed", {"louder:Louder"})
    point = trained_run.find_checkpoint(photos)
    text = point.state["recipe"].replace("name: supervised", "name: louder:Louder")
    checkpoint.save(
        tmp_path / "run" / "checkpoints", 1, {"weights": point.tensors("weights")}, {**point.state, "recipe": text}
    )
    with pytest.raises(
        UserError, match=r"the safetensors file does not predict as the network does on 9 of its test images"
    ):
        export(str(tmp_path / "run"), "safetensors", None, quiet=True)
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["checkpoints"]
    export(str(tmp_path / "run"), "torch-export", None, quiet=True)


@pytest.mark.parametrize(
    "wrong",
    [lambda x: x + 3e-4, lambda x: x * np.nan, lambda x: np.where(x == 0, 6e-5, x)],
    ids=["far", "nan", "class"],
)
def test_a_difference_is_seen_in_every_image(wrong):
    logits = np.zeros((40, 3), dtype=np.float32)
    logits[:, 0] = 5e-5
    images = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1)

    def right(batch):
        return logits[batch.ravel()]

    def nearly(batch):
        return np.where((batch.ravel() == 33)[:, None], wrong(right(batch)), right(batch))

    assert compare(right, lambda batch: right(batch) + 5e-5, images, "it", "them") == pytest.approx(5e-5)
    with pytest.raises(UserError, match="it does not predict as the network does on them"):
        compare(right, nearly, images, "it", "them")


def test_refusals(digits, tmp_path, monkeypatch):
    with pytest.raises(
        UserError, match=r"--format coreml: choose one of onnx, torch-export, safetensors, timm, published"
    ):
        export(str(digits), "coreml", None)
    with pytest.raises(UserError, match="resnet20 is a small-image network of glmc, which timm does not know"):
        export(str(digits), "timm", tmp_path / "out", quiet=True)
    assert not any(tmp_path.iterdir())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(
        UserError, match="full is there already, and nothing is overwritten; name another folder with --out"
    ):
        export(str(digits), "safetensors", tmp_path / "full")
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="neither a run with a checkpoint nor a checkpoint"):
        export(str(tmp_path / "run"), "safetensors", None, quiet=True)
    copy = shutil.copytree(digits, tmp_path / "copy")
    (copy / "calibration.json").write_text('{"temperature": 1}')
    with pytest.raises(UserError, match=r"calibration\.json is damaged .*; run glmc calibrate again"):
        export(str(copy), "safetensors", None, quiet=True)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r'--format onnx needs onnxscript: pip install "glmc\[onnx\]"'):
        export(str(digits), "onnx", None)
