import base64
import csv
import json
import math
import os
import re
import shutil
import statistics
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from glmc import report
from glmc.errors import UserError
from glmc.report import evidence, figures

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def accuracies(confusion, counts):
    """Scores of one confusion matrix, class by class; empty groups and top-5 of few classes absent."""
    recall = {c: 100 * row[c] / row.sum() for c, row in enumerate(confusion) if row.sum()}
    scores = {"top1": 100 * confusion.trace() / confusion.sum(), "balanced": statistics.fmean(recall.values())}
    scores["worst_class"] = min(recall.values())
    for name, wanted in (("many", lambda n: n > 100), ("medium", lambda n: 20 <= n <= 100), ("few", lambda n: n < 20)):
        members = [recall[c] for c in recall if wanted(counts[c])]
        if members:
            scores[name] = statistics.fmean(members)
    return {key: float(value) for key, value in scores.items()} | {"ece": 7.25, "nll": 1.234}


def run_folder(
    folder, classes, counts, *, per_class=50, epochs=8, every=2, seed=0, terms=("a", "b"), side=None, **more
):
    """A finished run as `glmc train` leaves it, from one seeded confusion matrix with a badly learnt tail.

    `side`: of square images, for predictions.csv and examples/; None leaves these out.
    """
    random, number = np.random.default_rng(seed), len(classes)
    wish = np.log(np.array(counts)) + random.normal(0, 0.7, (number, number))
    wish[np.diag_indices(number)] += 3 + np.log(number)
    odds = np.exp(wish - wish.max(1, keepdims=True))
    confusion = np.array([random.multinomial(per_class, row / row.sum()) for row in odds])
    last = accuracies(confusion, counts)

    def scores(epoch):
        return {k: v * (1 - 0.5 * math.exp(-3 * epoch / epochs)) if v > 8 else v for k, v in last.items()}

    lines = []
    for epoch in range(1, epochs + 1):
        part = {name: (i + 1) * math.exp(-epoch / epochs) - i for i, name in enumerate(terms)}
        line = {"epoch": epoch, "step": 10 * epoch, "lr": 0.1, "terms": part, "seconds": {"train": 1.5, "eval": 0.2}}
        lines.append(line | ({"test": scores(epoch)} if epoch % every == 0 or epoch == epochs else {}))
    lines[-1]["test"] = last
    predicted = confusion.sum(0)
    rows = [
        {"class": name, "train": int(counts[c]), "test": int(confusion[c].sum())}
        | ({"recall": 100 * float(confusion[c, c] / confusion[c].sum())} if confusion[c].sum() else {})
        | ({"precision": 100 * float(confusion[c, c] / predicted[c])} if predicted[c] else {})
        for c, name in enumerate(classes)
    ]
    result = {"schema": 1, "recipe": "digits_lt/glmc", "method": "glmc", "backbone": "resnet32", "parameters": 466906}
    result |= {"counts": [int(n) for n in counts], "epochs": epochs, "steps": 10 * epochs, "seed": seed, "last": last}
    result |= {"best_on_test": last | {"top1": last["top1"] + 0.5, "epoch": max(1, epochs - 1)}}
    result |= {"flip_tta": last | {"top1": last["top1"] + 0.25}, "per_class": rows, "weights_sha256": "ab" * 32}
    result |= {"seconds": {"startup": 1.25, "train": 83.0, "eval": 3.5}} | more
    folder.mkdir(parents=True)
    recipe = {"data": {"name": "digits", "imbalance": 25}, "eval": {"few": "<20"}, "train": {"epochs": epochs}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    environment = {"glmc": "0.1.0", "cpu": "a <fast> one", "cores": 2, "command": "glmc train 'digits lt' train.seed=0"}
    (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    with (folder / "confusion.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["true \\ predicted", *classes])
        table.writerows([name, *row] for name, row in zip(classes, confusion.tolist(), strict=True))
    if side:
        leave_evidence(folder, classes, counts, confusion, side)
    return folder


def leave_evidence(folder, classes, counts, confusion, side):
    """predictions.csv that agrees with the matrix, and examples/ of plain squares, a shade for each class."""
    true, predicted = (np.repeat(which.ravel(), confusion.ravel()) for which in np.indices(confusion.shape))
    confidence = np.random.default_rng(1).uniform(0.3, 1, len(true))
    train = np.repeat(np.arange(len(classes)), counts)

    def picture(labels):
        return lambda row: np.full((side, side, 3), 20 + 230 * labels[row] // len(classes), dtype=np.uint8)

    evidence.write(folder, classes, true, predicted, confidence, picture(true), train, picture(train))


def leave_calibration(run, step):
    """calibration.json with what thresholds and sets do on 500 test images."""
    found = {"promised": 0.048, "alike": {"answered": 0.8125, "wrong": 0.03125}}
    unknown = [{"asked": "error=0.05", "images": 300, "answered": 0.6, "wrong": 0.07} | found]
    group = {"images": 500, "covered": 0.915, "size": 1.75}
    measured = {
        "images": 500,
        "curves": {"all": [[0.5, 0.02], [1, 0.1]], "few": [[0.5, 0.04], [1, 0.4]]},
        "unknown": unknown,
        "sets": [{"asked": share, "groups": {"all": group, "few": group | {"images": 50}}} for share in (0.8, 0.9)],
    }
    prior = dict.fromkeys(DIGITS, 0.1)
    facts = {"step": step, "images": 100, "source": "", "temperature": 1.0, "prior": prior, "test": measured}
    (run / "calibration.json").write_text(json.dumps(facts))


def falling(number, largest, imbalance):
    return [max(1, int(largest * (1 / imbalance) ** (i / max(number - 1, 1)))) for i in range(number)]


def digits(folder, **more):
    return run_folder(folder, DIGITS, falling(10, 127, 25), **more)


def many_classes(folder, number, **more):
    return run_folder(folder, [f"class {c}" for c in range(number)], falling(number, 1280, 256), **more)


def page(run):
    return report.write(run).read_text(encoding="utf-8")


class Text(HTMLParser):
    """The words a reader sees, the tags and the attributes."""

    def __init__(self, html):
        super().__init__()
        self.words, self.tags, self.attributes, self._hidden = [], [], [], False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self._hidden = tag == "style"
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        if not self._hidden:
            self.words.append(data)

    @property
    def all(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    published = {"top1": 87.75, "network": "resnet32_w64", "source": "README 2023-05-15"}
    expect = {"top1": 71.0, "sd": 0.5, "seeds": 5, "record": "benchmarks/records/digits.json"}
    run = digits(tmp_path_factory.mktemp("ten") / "run", epochs=14, side=32, published=published, expect=expect)
    leave_calibration(run, step=140)
    return run, page(run)


def test_the_headline_is_the_last_epoch_and_the_best_is_called_unfair(ten):
    run, html = ten
    result, text = json.loads((run / "result.json").read_text()), Text(html).all
    for key in ("last", "flip_tta", "best_on_test"):
        assert f"{result[key]['top1']:.1f}" in text
    first_row = text[text.index("Test set") :]
    assert first_row.index("Last epoch") < first_row.index("Flip TTA") < first_row.index("Best on test")
    assert "epoch 13; selected on the test set: not a fair figure" in text
    assert f"<b>{result['last']['top1']:.1f}</b>top-1" in html
    assert "1.234" in text, "negative log-likelihood with three digits"


def test_networks_and_parameters_stand_beside_the_accuracies(ten):
    run, html = ten
    text, top1 = Text(html).all, json.loads((run / "result.json").read_text())["last"]["top1"]
    assert "0.47 M parameters with the heads; random weights at the start; begun from" in text
    assert "resnet32, 0.47 M parameters" in text
    assert "71.0 ± 0.5" in text
    assert "of 5 seeds, benchmarks/records/digits.json" in text
    assert "87.8" in text
    assert "another network (resnet32_w64, here resnet32)" in text
    side = "above" if top1 >= 71 else "below"
    assert f"{abs(top1 - 71):.1f} points {side} the recipe's stored mean" in text
    assert f"({abs(top1 - 71) / 0.5:.1f} standard deviations)" in text


def test_the_confusion_tables_agree_with_the_csv(ten):
    run, html = ten
    with (run / "confusion.csv").open(newline="") as file:
        _, *rows = csv.reader(file)
    matrix = {row[0]: dict(zip(DIGITS, map(int, row[1:]), strict=True)) for row in rows}
    count = max(n for t, row in matrix.items() for p, n in row.items() if t != p)
    pairs = html[html.index("Most confused pairs") :]
    first = Text(pairs[pairs.index("<tbody>") : pairs.index("</tr>", pairs.index("<tbody>"))]).all
    assert f" {count} " in f"{first} "
    assert matrix[first.split()[0]][re.findall(r"n = [\d,]+ (\w+)", first)[0]] == count
    assert f"{100 * count / 50:.1f}" in first
    worst = html[html.index("The classes of lowest recall") :]
    low = min(matrix, key=lambda name: matrix[name][name])
    assert Text(worst[worst.index("<tbody>") :]).all.split()[0] == low
    upwards, wrong = 0, 0
    for i, t in enumerate(DIGITS):
        for j, p in enumerate(DIGITS):
            wrong += matrix[t][p] * (i != j)
            upwards += matrix[t][p] * (falling(10, 127, 25)[j] > falling(10, 127, 25)[i])
    assert f"{100 * upwards / wrong:.0f} % of all mistakes" in html


def test_the_page_needs_nothing_from_outside(ten):
    seen = Text(ten[1])
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(seen.tags)
    for name, value in seen.attributes:
        assert "http" not in value, (name, value[:80])
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("#", "data:image/png", "data:image/jpeg")), (name, value[:80])
    assert "url(" not in re.sub(r"url\(#\w+\)", "", ten[1])
    assert "@import" not in ten[1]


def test_inline_figures_hold_no_fixed_colour(ten):
    drawings = re.findall(r"<svg.*?</svg>", ten[1], re.DOTALL)
    assert len(drawings) == 8, "frequency twice, terms, accuracy, confusion, reliability, risk, sets"
    for svg in drawings:
        assert re.findall(r"#[0-9a-f]{6}\b|#[0-9a-f]{3}\b|(?:fill|stroke): (?:black|white)", svg) == []
        assert "var(--ink)" in svg
        assert "<metadata" not in svg


def test_ids_are_unique_to_one_drawing(ten):
    drawings = re.findall(r"<svg.*?</svg>", ten[1], re.DOTALL)
    used = [set(re.findall(r"(?:href=\"#|url\(#)(\w+)", svg)) for svg in drawings]
    for i, svg in enumerate(drawings):
        assert used[i] <= set(re.findall(r'id="(\w+)"', svg))
        assert not used[i] & set().union(*used[:i], *used[i + 1 :])


def test_every_figure_is_a_png_that_shows_something(ten):
    run, _ = ten
    assert {p.name for p in (run / "figures").iterdir()} == {f"{name}.png" for name in figures.FIGURES}
    for name in figures.FIGURES:
        image = np.asarray(Image.open(run / "figures" / f"{name}.png").convert("RGB"))
        assert image.shape[0] >= 400
        assert image.shape[1] >= 600
        assert 0.02 < (image < 230).any(2).mean() < 0.7, name


def test_confused_pairs_and_tail_are_shown_with_their_images(ten):
    run, html = ten
    chosen = json.loads((run / "examples" / "examples.json").read_text())
    seen = Text(html)
    images = [value for name, value in seen.attributes if name == "src"]
    shown = [name for pair in chosen["pairs"] for split in ("test", "train") for name in pair[split]]
    shown += [name for entry in chosen["tail"] for name in entry["train"]]
    assert len(images) == len(shown) > 20
    for name, image in zip(shown, images, strict=True):
        assert base64.b64decode(image.partition(",")[2]) == (run / "examples" / name).read_bytes()
    assert f"{chosen['pairs'][0]['true']} taken for {chosen['pairs'][0]['predicted']}" in seen.all
    assert "Worst classes of the tail" in seen.all


def test_reliability_and_confidence_of_the_groups(ten):
    run, html = ten
    with (run / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    bins = {}
    for row in rows:
        bins.setdefault(int(float(row["confidence"]) * 15), []).append(row)
    gaps = [
        abs(sum(float(r["confidence"]) for r in part) - sum(r["true"] == r["predicted"] for r in part))
        for part in bins.values()
    ]
    assert f"ECE {100 * sum(gaps) / len(rows):.1f} %" in Text(html).all
    few = [row for row in rows if falling(10, 127, 25)[DIGITS.index(row["true"])] < 20]
    sure = 100 * statistics.fmean(float(row["confidence"]) for row in few)
    right = 100 * statistics.fmean(row["true"] == row["predicted"] for row in few)
    word = "about right" if abs(sure - right) < 2 else "too sure" if sure > right else "not sure enough"
    assert f"few {sure:.1f} {right:.1f} {word}" in Text(html).all


def test_what_was_promised_for_unknown_and_sets_stands_beside_what_test_images_show(ten):
    text = Text(ten[1]).all
    assert "at most 5 % wrong --unknown error=0.05 60.0 7.0 4.6–10.5 3.1 of 81.2 ≤ 4.8" in text
    assert "Dots: the thresholds" in text
    assert "all images 91.5 88.7–93.6 1.8" in text
    assert "few 91.5 80.5" in text


def test_without_a_calibration_of_its_end_a_run_has_the_curve_of_its_predictions_alone(tmp_path):
    run = digits(tmp_path / "run", side=8)
    leave_calibration(run, step=70)
    text = Text(page(run)).all
    assert "Wrong answers against images answered" in text
    assert "finds thresholds on held-out images" in text
    assert "error=0.05" not in text
    assert "Dots:" not in text


def test_a_run_without_predictions_has_no_reliability_and_no_pictures(tmp_path):
    seen = Text(page(digits(tmp_path / "run")))
    assert "Reliability" not in seen.all
    assert "img" not in seen.tags
    assert "Worst classes of the tail" in seen.all


def test_an_adjusted_classifier_has_a_page_without_epochs(tmp_path):
    stage1 = {"recipe": "digits_lt/ce", "last": {"top1": 61.25, "few": 3.5}}
    run = digits(tmp_path / "run", stage2="tau_norm", stage1=stage1, settings={"tau": 1.0})
    result = json.loads((run / "result.json").read_text())
    del result["seconds"], result["best_on_test"]
    (run / "result.json").write_text(json.dumps(result))
    (run / "metrics.jsonl").unlink()
    text = Text(page(run)).all
    assert "adjusted without training" in text
    assert "Stage 1 digits_lt/ce, last epoch, before the second stage" in text
    assert "61.2" in text
    assert "How it learnt" not in text


def test_the_same_run_gives_the_same_page(ten):
    assert page(ten[0]) == ten[1]


def test_recipe_environment_and_command_are_shown_escaped(ten):
    text = Text(ten[1]).all
    assert "glmc train 'digits lt' train.seed=0" in text
    assert f"glmc train {ten[0]}/recipe.yaml" in text
    assert "a <fast> one" in text
    assert "imbalance: 25" in text
    assert "ab" * 32 in text
    assert "1 min 23 s" in text


def test_hostile_and_foreign_class_names(tmp_path):
    names = ["<script>alert(1)</script>", "a & b", '"quoted"', "$5_x^{", "猫", "x" * 120, "comma, name", "{{ 7*7 }}"]
    html = page(run_folder(tmp_path / "run", names, falling(8, 500, 100)))
    seen = Text(html)
    assert "script" not in seen.tags
    for name in names:
        assert name in seen.all, name


@pytest.mark.parametrize("number", [2, 21, 100, 1000])
def test_any_number_of_classes(tmp_path, number):
    html = page(many_classes(tmp_path / "run", number, per_class=20))
    assert "Confusion matrix" in html
    assert_no_nan(html)
    assert f"All {number:,} classes" in html
    assert ("Each point sums 4 × 4 classes" in html) == (number == 1000)
    assert len(html) < 2_500_000


def assert_no_nan(html):
    seen = Text(html)
    for words in (seen.all, *(value for name, value in seen.attributes if name in ("d", "x", "y", "transform"))):
        assert not re.search(r"\b([Nn]a[Nn]|inf|None|undefined)\b", words)


def test_absent_values_are_absent(tmp_path):
    """No few group, no top-5, one term, no flip, no best, classes without test images or predictions."""
    run = run_folder(tmp_path / "run", ["a", "b", "c"], [900, 300, 60], terms=("loss",), epochs=3)
    result = json.loads((run / "result.json").read_text())
    for key in ("flip_tta", "best_on_test"):
        del result[key]
    del result["per_class"][2]["recall"], result["per_class"][2]["precision"]
    (run / "result.json").write_text(json.dumps(result))
    (run / "confusion.csv").write_text("true \\ predicted,a,b,c\na,50,0,0\nb,5,45,0\nc,0,0,0\n")
    html = page(run)
    text = Text(html).all
    assert_no_nan(html)
    assert "Top-5" not in text
    assert "few" not in re.findall(r"\w+", text[: text.index("Repeat it")])
    assert "Best on test" not in text
    assert "Flip TTA" not in text
    assert "The ring" not in text
    assert "Beside other figures" not in text
    assert "sum" not in re.findall(r">([^<]*)</text>", html), "one term has no sum"
    assert re.search(r"n = 60 0 – – –", text)


def test_top5_is_shown_when_there(tmp_path):
    run = digits(tmp_path / "run")
    result = json.loads((run / "result.json").read_text())
    result["last"]["top5"] = 98.76
    (run / "result.json").write_text(json.dumps(result))
    assert re.search(r"Top-5, % the right class is among the first five 98.8 – –", Text(page(run)).all)


def test_one_epoch(tmp_path):
    html = page(digits(tmp_path / "run", epochs=1))
    assert_no_nan(html)
    assert "1 epoch, seed 0" in html


def test_few_may_include_twenty(tmp_path):
    run = run_folder(tmp_path / "run", ["a", "b", "c"], [200, 20, 5])
    assert "few, n = 20" not in Text(page(run)).all
    (run / "recipe.yaml").write_text('eval: {few: "<=20"}\n')
    text = Text(page(run)).all
    assert "few, n = 20" in text
    assert "at most 20 training images, 2 classes" in text


def test_a_perfect_run_has_no_pairs(tmp_path):
    run = run_folder(tmp_path / "run", ["a", "b"], [200, 50])
    (run / "confusion.csv").write_text("true \\ predicted,a,b\na,50,0\nb,0,50\n")
    html = page(run)
    assert "Most confused pairs" not in html
    assert "There are no mistakes" in html


def test_a_nan_of_another_writer_counts_as_absent(tmp_path):
    run = digits(tmp_path / "run")
    text = (run / "result.json").read_text()
    (run / "result.json").write_text(text.replace("1.234", "NaN"))
    assert_no_nan(page(run))


@pytest.mark.parametrize("name", ["recipe.yaml", "environment.json", "metrics.jsonl", "result.json", "confusion.csv"])
def test_a_missing_file_is_named(tmp_path, name):
    run = digits(tmp_path / "run")
    (run / name).unlink()
    with pytest.raises(UserError, match=rf"no {name}.*--resume"):
        report.write(run)


def test_what_was_uploaded_has_no_report_and_is_not_called_unfinished(tmp_path):
    run = digits(tmp_path / "run")
    (run / "confusion.csv").rename(run / "glmc.json")
    with pytest.raises(UserError, match=r"was written by glmc push .*; name the folder that the run was trained in"):
        report.write(run)


def test_damaged_files_are_named(tmp_path):
    run = digits(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 9, "ter')
    with pytest.raises(UserError, match=r"metrics.jsonl line 9 is damaged"):
        report.write(run)
    run = digits(tmp_path / "other")
    (run / "confusion.csv").write_text("true \\ predicted,a,b\na,1,2\nb,3,4\n")
    with pytest.raises(UserError, match=r"2 classes but result.json has 10"):
        report.write(run)
    (run / "confusion.csv").write_text("true \\ predicted,a,b\na,1,2\n")
    with pytest.raises(UserError, match=r"not square: 2 columns, 1 rows"):
        report.write(run)
    (run / "confusion.csv").write_text("")
    with pytest.raises(UserError, match=r"not square: 0 columns, 0 rows"):
        report.write(run)
    (run / "confusion.csv").write_text("true \\ predicted,a,b\na,1,x\nb,3,4\n")
    with pytest.raises(UserError, match=r"confusion.csv does not hold whole numbers"):
        report.write(run)
    (run / "recipe.yaml").write_text("eval: {few: ")
    with pytest.raises(UserError, match=r"recipe.yaml is not a recipe"):
        report.write(run)
    run = digits(tmp_path / "answers", side=8)
    lines = (run / "predictions.csv").read_text().splitlines()
    (run / "predictions.csv").write_text("\n".join(lines[:-1]))
    with pytest.raises(UserError, match=r"predictions.csv has 499 images but confusion.csv 500"):
        report.write(run)
    (run / "predictions.csv").write_text("\n".join([*lines[:2], "1,eleven,zero,0.5"]))
    with pytest.raises(UserError, match=r"predictions.csv line 3 is not .*eleven"):
        report.write(run)
    (run / "predictions.csv").unlink()
    (run / "examples" / "examples.json").write_text("[")
    with pytest.raises(UserError, match=r"examples.json is damaged"):
        report.write(run)
    blocked = digits(tmp_path / "blocked")
    (blocked / "report.html").mkdir()
    with pytest.raises(UserError, match=r"blocked.* could not be written"):
        report.write(blocked)


def test_summary_is_mean_and_sample_deviation(tmp_path):
    runs = [digits(tmp_path / str(seed), seed=seed) for seed in (0, 1, 5)]
    values = [json.loads((run / "result.json").read_text())["last"]["top1"] for run in runs]
    mean = sum(values) / 3
    sd = math.sqrt(sum((v - mean) ** 2 for v in values) / 2)
    answer = report.summary(runs)
    assert answer["top1"] == {"mean": pytest.approx(mean), "sd": pytest.approx(sd), "n": 3}
    assert list(answer)[:2] == ["top1", "balanced"]
    assert report.summary(runs[:1])["top1"] == {"mean": pytest.approx(values[0]), "n": 1}


def test_summary_refuses_runs_that_do_not_belong_together(tmp_path):
    first, longer = digits(tmp_path / "a"), digits(tmp_path / "b", seed=1, epochs=9)
    with pytest.raises(UserError, match=r"a and .*b differ in `epochs`"):
        report.summary([first, longer])
    with pytest.raises(UserError, match=r"same seed 0"):
        report.summary([first, digits(tmp_path / "c")])
    with pytest.raises(UserError, match=r"at least one"):
        report.summary([])


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
# The browser reports how far the content reaches; a frame of the wanted width stands for the screen, because a headless
# window may be refused so small a size.
MEASURE = """<script>addEventListener("load", () => parent.postMessage(
[document.documentElement.scrollWidth, innerWidth, document.querySelectorAll("figure svg").length], "*"))</script>"""
FRAME = """<!doctype html><body><iframe style="border:0;width:{width}px;height:900px" src="page.html"></iframe>
<script>addEventListener("message", m => document.body.append("MEASURED " + m.data.join(" ") + " END"))</script>"""


def browse(folder: Path, address: Path, *flags: str) -> str:
    """What headless Chromium prints; without network and with a profile of its own."""
    quiet = "--no-first-run --disable-background-networking --disable-component-update --disable-sync --disable-quic"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *quiet.split(), *flags]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", address.as_uri()]
    environment = {**os.environ, "HOME": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True, env=environment).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: the page's layout was not looked at")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("kind", ["ten", "thousand"])
def test_nothing_overflows_in_a_browser(tmp_path, ten, width, kind):
    html = ten[1] if kind == "ten" else page(many_classes(tmp_path / "run", 1000, per_class=10, side=80))
    assert_fits(tmp_path, html, width, {"ten": 8, "thousand": 7}[kind])


def assert_fits(tmp_path, html, width, drawings):
    """The page, in a frame of that width, shows its drawings and reaches no further to the right."""
    (tmp_path / "page.html").write_text(html.replace("</body>", MEASURE + "</body>"), encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME.format(width=width), encoding="utf-8")
    seen = browse(tmp_path, tmp_path / "frame.html", "--dump-dom", "--window-size=1400,1000")
    reach, inner, figures = map(int, re.findall(r"MEASURED (\d+) (\d+) (\d+) END", seen)[0])
    assert inner == width
    assert figures == drawings
    assert reach <= width, f"the page is {reach} px wide on a screen of {width} px"
    picture = tmp_path / "page.png"
    browse(tmp_path, tmp_path / "frame.html", f"--screenshot={picture}", "--window-size=1400,1000")
    pixels = np.asarray(Image.open(picture).convert("L"))[:900, :width]
    assert pixels.std() > 10, "the screenshot is empty"
