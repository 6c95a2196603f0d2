"""`glmc predict` on a real, tiny run over image files."""

import csv
import io
import json
import re
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_calibrate import CLASSES, train_on, write_digits

from glmc import recipe
from glmc.data import asked
from glmc.data.prepare import decoded, pixels
from glmc.data.split import Paths, Split
from glmc.errors import UserError
from glmc.inference import predict as room
from glmc.inference.calibrate import calibrate
from glmc.inference.heldout import score_given
from glmc.inference.predict import predict, split_words
from glmc.inference.prior import read_prior
from glmc.runs import trained as trained_run
from glmc.runs.folder import recipe_of
from glmc.runs.trained import load_trained
from glmc.screen import Screen

NAMES = sorted(CLASSES)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "photos"
    for name, count in CLASSES.items():
        write_digits(folder / "train", range(count), [name])
    write_digits(folder / "test", range(40, 52))
    write_digits(folder.parent / "new", range(60, 90))
    return folder


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    return train_on(photos, tmp_path_factory.mktemp("runs") / "run", epochs=8)


@pytest.fixture
def own(trained, tmp_path):
    """A copy of the run that a test may write into."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def folder(photos, tmp_path, monkeypatch):
    """The working directory: a.png, b.png, c.png, d.png, and a file that is none."""
    monkeypatch.chdir(tmp_path)
    files = sorted((photos / "test").rglob("*.png"))
    for name, file in zip("abcd", files[::10], strict=True):
        shutil.copy(file, f"{name}.png")
    Path("broken.png").write_text("no image")
    return tmp_path


@pytest.fixture
def said(capsys):
    """(run, paths, overrides, options) -> what stands on stdout, as objects of JSON lines."""

    def lines(*arguments, **options):
        predict(*arguments, as_json=True, **options)
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return lines


def probabilities(line):
    """float [C] in label order."""
    found = {each["class"]: each["probability"] for each in line["predictions"]}
    return [found[name] for name in NAMES]


def test_pictures_are_read_as_training_read_them(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)).save(
        tmp_path / "a" / "1.jpg", exif=exif
    )
    seen = []
    for words in ([], ["data.resize=short_side"], ["data.exif=false"]):
        wanted = recipe.load("folder/ce", ["data.size=14", "data.channels=3", *words])
        split = Split(Paths.from_list(tmp_path, ["a/1.jpg"]), np.zeros(1, np.int64), ("a",))
        trained_on = pixels(decoded(split, "", wanted.data.model_copy(update={"cache": False}), Screen(quiet=True)))
        ((_, shown),) = next(room.decoded_ahead([str(tmp_path / "a" / "1.jpg")], wanted, 1))
        np.testing.assert_array_equal(shown.result(), trained_on[0])
        seen.append(trained_on.tobytes())
    assert len(set(seen)) == 3


def test_predictions_of_the_test_images_are_those_of_the_test(trained, photos, said):
    lines = said(trained, [str(photos / "test")])
    confusion = np.zeros((3, 3), dtype=int)
    for line in lines:
        confusion[NAMES.index(Path(line["file"]).parent.name), NAMES.index(line["predictions"][0]["class"])] += 1
    rows = list(csv.reader((trained / "confusion.csv").read_text().splitlines()))
    assert confusion.tolist() == [[int(cell) for cell in row[1:]] for row in rows[1:]]
    assert confusion.sum() == 36
    assert (confusion.sum(0) > 0).sum() > 1  # else any pixels would do
    for line in lines:
        assert sum(probabilities(line)) == pytest.approx(1, abs=1e-5)
        falling = [each["probability"] for each in line["predictions"]]
        assert falling == sorted(falling, reverse=True)


def test_a_probability_is_the_softmax_of_the_network_and_the_batch_size_changes_nothing(trained, folder, said):
    point = trained_run.find_checkpoint(trained)
    recipe = recipe_of(trained)
    method = load_trained(point, recipe).method.eval()
    pixels = np.asarray(Image.open("b.png"), dtype=np.float32) / 255
    normalised = (torch.from_numpy(pixels) - recipe.data.mean[0]) / recipe.data.std[0]
    with torch.inference_mode():
        expected = method.predict(normalised[None, None]).softmax(1)[0].tolist()
    for size in (1, 3, 100):
        lines = said(trained, ["a.png", "b.png", "c.png"], (f"eval.batch_size={size}",))
        assert probabilities(lines[1]) == pytest.approx(expected, abs=1e-5)


def test_output_is_in_the_order_of_the_input_and_a_file_is_read_once(trained, folder, said, monkeypatch):
    read = []
    real = room.decode_image
    monkeypatch.setattr(room, "decode_image", lambda file, *rest: (read.append(file), real(file, *rest))[1])
    wanted = ["d.png", "a.png", "d.png", "c.png", "a.png", "b.png", "d.png"]
    lines = said(trained, wanted, ("eval.batch_size=2",))
    assert [line["file"] for line in lines] == wanted
    assert sorted(read) == ["a.png", "b.png", "c.png", "d.png"]
    assert lines[0] == lines[2] == lines[6]
    alone = said(trained, ["b.png"])
    assert probabilities(lines[5]) == pytest.approx(probabilities(alone[0]), abs=1e-5)


def test_bad_files_are_named_at_the_end_with_the_reason_and_the_others_are_predicted(trained, folder, capsys):
    with pytest.raises(UserError) as caught:
        predict(trained, ["nowhere.png", "a.png", "broken.png", "*.jpg", "b.png", "broken.png"])
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == ["file", "a.png", "b.png"]
    assert str(caught.value).splitlines() == [
        "3 of 5 could not be predicted:",
        "  nowhere.png (no such file)",
        "  *.jpg (no file matches)",
        "  broken.png (not an image, or not of its kind)",
    ]
    capsys.readouterr()
    with pytest.raises(UserError, match="1 of 1 could not be predicted:\n  nowhere"):
        predict(trained, ["nowhere.png"])
    assert capsys.readouterr() == ("", "")  # and no remark on probabilities before it


def test_the_table_names_as_many_classes_as_wanted(trained, folder, capsys):
    predict(trained, ["a.png"], top=2)
    heading, line = capsys.readouterr().out.splitlines()
    assert heading.split() == ["file", "class", "probability", "others"]
    assert line.count("%") == 2
    predict(trained, ["a.png"], top=1)
    assert capsys.readouterr().out.splitlines()[1].count("%") == 1
    predict(trained, ["a.png"], top=9)
    assert capsys.readouterr().out.splitlines()[1].count("%") == 3


def test_a_run_is_tested_on_a_second_folder(trained, photos, said):
    """All of its images count, and they are those that predict would be given."""
    new = photos.parent / "new"
    found = score_given(trained, new, (), quiet=True)["test"]
    right = [line["predictions"][0]["class"] == Path(line["file"]).parent.name for line in said(trained, [str(new)])]
    assert found["top1"] == pytest.approx(100 * np.mean(right))


def test_images_are_copied_by_class_and_shown_least_certain_first(trained, folder, capsys):
    """A name that is taken gets a number, a second time nothing is copied again, and every original stays."""
    Path("more").mkdir()
    shutil.copy("b.png", "more/a.png")  # another picture of the same name
    before = {file: file.read_bytes() for file in Path().rglob("*.png")}
    for _ in range(2):
        Path("sheet.html").unlink(missing_ok=True)
        predict(
            trained,
            ["a.png", "b.png", "c.png", "d.png", "more/a.png"],
            as_json=True,
            sorted_into=Path("sorted"),
            sheet_file=Path("sheet.html"),
        )
    shown = capsys.readouterr()
    assert "5 images copied into sorted\n" in shown.err
    assert "0 images copied into sorted, 5 were there already\n" in shown.err
    lines = [json.loads(line) for line in shown.out.splitlines()][:5]
    firsts = {line["file"]: line["predictions"][0] for line in lines}
    found = {file.relative_to("sorted"): file.read_bytes() for file in Path("sorted").rglob("*.*")}
    assert sorted((str(file.parent), content) for file, content in found.items()) == sorted(
        (firsts[name]["class"], Path(name).read_bytes()) for name in firsts
    )
    assert {file: file.read_bytes() for file in before} == before
    page = Path("sheet.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 5
    assert not re.search(r"(src|href)=.(?!data:)", page)
    order = re.findall(r'alt="([^"]*)"', page)
    assert [firsts[name]["probability"] for name in order] == sorted(each["probability"] for each in firsts.values())
    with pytest.raises(UserError, match=r"--sheet sheet.html: exists"):
        predict(trained, ["a.png"], sheet_file=Path("sheet.html"))
    with pytest.raises(UserError, match=r"--sort-into a.png: is a file"):
        predict(trained, ["a.png"], sorted_into=Path("a.png"))


def test_a_csv_file_has_a_row_an_image_and_nothing_is_overwritten(trained, folder, capsys):
    odd = 'o,dd "\udcff".png'  # not UTF-8, as some archives leave behind
    shutil.copy("a.png", odd)
    predict(trained, ["b.png", odd], csv_file=Path("out.csv"), top=2)
    assert capsys.readouterr().out == ""
    text = Path("out.csv").read_text(encoding="utf-8", errors="surrogateescape")
    heading, *rows = csv.reader(io.StringIO(text))
    assert heading == ["file", "class", "probability", "class 2", "probability 2"]
    assert [row[0] for row in rows] == ["b.png", odd]
    assert all(0.3 < float(row[2]) <= 1 and float(row[4]) <= float(row[2]) for row in rows)
    before = Path("out.csv").read_bytes()
    with pytest.raises(UserError, match=r"--csv out.csv: exists, and nothing is overwritten"):
        predict(trained, ["a.png"], csv_file=Path("out.csv"))
    with pytest.raises(UserError, match="give one of the two"):
        predict(trained, ["a.png"], csv_file=Path("new.csv"), as_json=True)
    assert Path("out.csv").read_bytes() == before
    predict(trained, [odd])
    assert r"\udcff" in capsys.readouterr().out


def test_mirrored_images_are_averaged_in_if_wanted(trained, folder, said):
    Image.open("a.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save("mirrored.png")
    one, other = (probabilities(line) for line in said(trained, ["a.png", "mirrored.png"]))
    both = probabilities(said(trained, ["a.png"], flip=True)[0])
    assert both == pytest.approx(np.mean([one, other], axis=0).tolist(), abs=1e-5)


def test_no_more_than_two_batches_are_decoded_ahead(trained, monkeypatch):
    begun, most = [], []
    gate = threading.Lock()

    def decode(file, size, channels):
        with gate:
            begun.append(file)
        return np.zeros((size, size, channels), np.uint8)

    monkeypatch.setattr(room, "decode_image", decode)
    recipe = recipe_of(trained)
    taken = 0
    for batch in room.decoded_ahead([str(n) for n in range(25)], recipe, 4):
        most.append(len(begun) - taken)
        taken += len(batch)
        assert [path for path, _ in batch] == [str(n) for n in range(taken - len(batch), taken)]
    assert taken == 25
    assert max(most) <= 8


# --- paths ------------------------------------------------------------------------------------------------------------


def test_folders_patterns_and_stdin_become_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("x/b.JPG", "x/a.png", "x/notes.txt", "x/.hidden.png", "x/deep/c.tif", "x/.git/d.png", "[1].png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("empty").mkdir()
    assert asked.find_images(["x"]) == (["x/a.png", "x/b.JPG", "x/deep/c.tif"], {})
    assert asked.find_images(["x/*.txt"])[0] == ["x/notes.txt"]  # as a shell would have it
    assert asked.find_images(["x/*"])[0] == ["x/a.png", "x/b.JPG", "x/deep/c.tif", "x/notes.txt"]
    assert asked.find_images(["x/**/*.tif"])[0] == ["x/deep/c.tif"]
    assert asked.find_images(["x/**"])[0] == ["x/a.png", "x/b.JPG", "x/deep/c.tif", "x/notes.txt"]
    assert asked.find_images(["[1].png"]) == (["[1].png"], {})
    assert asked.find_images(["empty"]) == (["empty"], {"empty": "a folder without images"})
    given = SimpleNamespace(buffer=io.BytesIO(b"x/deep\n\nx/notes.txt\r\nx/\xff.png\n"))
    monkeypatch.setattr(asked.sys, "stdin", given)
    found, problems = asked.find_images(["x/a.png", "-"])
    assert found == ["x/a.png", "x/deep/c.tif", "x/notes.txt", "x/\udcff.png"]
    assert problems == {"x/\udcff.png": "no such file"}
    with pytest.raises(UserError, match="no images are named"):
        asked.find_images([])


def test_words_with_a_dotted_key_are_values_unless_a_file_has_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data.root=x").touch()
    words = ["a=b.png", "train.device=cpu", "x/y.z=1.png", "data.root=x", "-"]
    assert split_words(words) == (["a=b.png", "x/y.z=1.png", "data.root=x", "-"], ("train.device=cpu",))


# --- class frequencies ------------------------------------------------------------------------------------------------


def test_without_a_calibration_frequencies_are_reweighted_from_those_the_method_assumes(trained, folder, said, capsys):
    plain = said(trained, ["a.png", "b.png"])
    same = said(trained, ["a.png", "b.png"], prior="training")
    for before, after in zip(plain, same, strict=True):
        assert probabilities(after) == pytest.approx(probabilities(before), abs=1e-5)
    Path("world.csv").write_text("class,count\nthree,0\neight,1\nfive,3\n")
    predict(trained, ["a.png"], prior="world.csv", as_json=True)
    shown = capsys.readouterr()
    odds = np.array(probabilities(plain[0])) * [1, 3, 0] / [40, 24, 8]
    assert probabilities(json.loads(shown.out)) == pytest.approx((odds / odds.sum()).tolist(), abs=1e-4)
    assert "probabilities for the frequencies in world.csv of classes, if the run assumes the training" in shown.err


def test_a_calibration_is_used_and_said_and_gives_what_it_promised(own, photos, folder, said, capsys):
    new = photos.parent / "new"
    result = calibrate(own, images=new, quiet=True)
    raw_run = own.parent / "raw"
    shutil.copytree(own, raw_run, ignore=shutil.ignore_patterns("calibration.json"))
    raw = said(raw_run, ["a.png"])[0]
    prior = np.array([result["prior"][name] for name in NAMES])
    for choice, target in ((None, [40, 24, 8]), ("training", [40, 24, 8]), ("uniform", [1, 1, 1])):
        odds = np.array(probabilities(raw)) ** (1 / result["temperature"]) / prior * target
        found = probabilities(said(own, ["a.png"], prior=choice)[0])
        assert found == pytest.approx((odds / odds.sum()).tolist(), abs=1e-4)
    predict(own, ["a.png"])
    assert f"calibrated on 90 images of {new}, temperature {result['temperature']:.3f}" in capsys.readouterr().err
    predict(own, ["a.png"], flip=True)
    assert "not calibrated: glmc calibrate is for single views" in capsys.readouterr().err


def test_a_calibration_of_another_step_or_a_damaged_one_is_not_used(own, photos, folder, said, capsys):
    raw = said(own, ["a.png"])
    calibrate(own, images=photos.parent / "new", quiet=True)
    file = own / "calibration.json"
    assert said(own, ["a.png"]) != raw
    file.write_text(json.dumps(json.loads(file.read_text()) | {"step": 3}))
    predict(own, ["a.png"], as_json=True)
    shown = capsys.readouterr()
    assert [json.loads(shown.out)] == raw
    assert "calibration.json is of step 3, not of step" in shown.err
    file.write_text('{"temperature": 1')
    with pytest.raises(UserError, match=r"calibration.json is damaged .*; run glmc calibrate again"):
        predict(own, ["a.png"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("cat,1\ndog,2\ncow,3\n", r"world.csv:3: the run has no class 'cow'; did you mean 'crow'\?"),
        ("cat,1\ndog,2\n", r"world.csv has no line for a class \('crow'\)"),
        ("class,count\ncat,1\ndog,-2\ncrow,3\n", r"world.csv:3: '-2' is no count"),
        ("cat,1\ndog,nan\ncrow,3\n", r"world.csv:2: 'nan' is no count"),
        ("cat,1\ndog\ncrow,3\n", r"world.csv:2: not `class,count`: 'dog'"),
        ("cat,1\ndog,1\ncat,1\n", r"world.csv:3: class 'cat' stands there for the second time"),
        ("cat,0\ndog,0\ncrow,0\n", r"world.csv: every count is 0"),
    ],
)
def test_a_wrong_file_of_frequencies_is_refused_with_its_line(text, sentence, tmp_path):
    (tmp_path / "world.csv").write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_prior(str(tmp_path / "world.csv"), ("cat", "crow", "dog"), np.array([3, 2, 1]))


def test_frequencies_come_from_words_or_files(tmp_path):
    classes, counts = ("a, b", "c"), np.array([3, 1])
    assert read_prior("uniform", classes, counts).tolist() == [0.5, 0.5]
    assert read_prior("training", classes, counts).tolist() == [0.75, 0.25]
    (tmp_path / "f.csv").write_text('\ufeffClass,Count\r\nc , 0.2\r\n\r\n"a, b",0.6\r\n', encoding="utf-8")
    assert read_prior(str(tmp_path / "f.csv"), classes, counts).tolist() == pytest.approx([0.75, 0.25])
    with pytest.raises(UserError, match="neither uniform nor training nor a file"):
        read_prior("unifrom", classes, counts)


def test_values_that_change_the_predictions_are_refused(trained, folder):
    with pytest.raises(UserError, match=r"data.size=4: a run predicts as it was trained to; only .*eval.batch_size"):
        predict(trained, ["a.png"], ("data.size=4",))


def test_unknown_and_sets_are_told_in_every_form(own, photos, folder, said, capsys):
    for options in ({"unknown": "coverage=0.5"}, {"sets": 0.9}):
        with pytest.raises(UserError, match=r"needs held-out images .*; run glmc calibrate .*run first$"):
            predict(own, ["a.png"], **options)
    calibrate(own, images=photos.parent / "new", quiet=True)
    facts = json.loads((own / "calibration.json").read_text())
    assert facts["step"] == json.loads((own / "result.json").read_text())["steps"], "or its report would leave it out"
    facts["held_out"]["first"] = [1.0] * 90  # so that every image is unknown
    (own / "calibration.json").write_text(json.dumps(facts))
    both = {"unknown": "coverage=0.5", "sets": 0.9}
    predict(own, ["a.png"], as_json=True, sorted_into=Path("sorted"), sheet_file=Path("sheet.html"), **both)
    shown = capsys.readouterr()
    line, remarks = json.loads(shown.out), " ".join(shown.err.split())
    first = line["predictions"][0]["class"]
    assert line["unknown"] is True
    assert line["set"][0] == first
    assert "unknown up to a probability of 1: 0 of 90 held-out images are answered" in remarks
    assert "by group of classes: medium (60 held-out images); few (30 held-out images)" in remarks
    assert "1 of 1 images are called unknown" in remarks
    assert Path("sorted/unknown/a.png").exists()
    page = Path("sheet.html").read_text()
    assert f"<b>unknown ({first})</b>" in page
    assert f"set: {', '.join(line['set'])}<br>" in page
    predict(own, ["a.png"], csv_file=Path("out.csv"), top=1, **both)
    heading, row = csv.reader(Path("out.csv").read_text().splitlines())
    assert heading == ["file", "class", "probability", "unknown", "set"]
    assert row[3:] == ["yes", "|".join(line["set"])]
    predict(own, ["a.png"], **both)
    assert f"unknown ({first})" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--unknown, --sets: .* nothing for --prior; leave out --prior"):
        predict(own, ["a.png"], prior="uniform", **both)
