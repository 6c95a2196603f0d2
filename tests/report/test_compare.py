import csv
import json
import re
import statistics
import subprocess
import sys

import numpy as np
import pytest
import yaml
from test_report import (
    CHROMIUM,
    DIGITS,
    Text,
    assert_fits,
    assert_no_nan,
    digits,
    falling,
    many_classes,
    run_folder,
)

from glmc import report
from glmc.errors import UserError
from glmc.report import compare, entries, finished, ranking
from glmc.screen import Screen

QUIET = Screen(quiet=True)


def write(paths, out=None):
    return compare.write(paths, out, QUIET)


def other(run, settings=None, **result):
    """The same run under another recipe."""
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    for key, value in (settings or {}).items():
        section, _, name = key.partition(".")
        recipe.setdefault(section, {})[name] = value
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    changed = json.loads((run / "result.json").read_text()) | result
    (run / "result.json").write_text(json.dumps(changed))
    return run


def seeds(folder, numbers, better=0.0, **recipe):
    """A folder of seeds whose scores are told here, in percent, a seed apart by one point."""
    folder.mkdir()
    (folder / "seeds.json").write_text("[]")
    for seed in numbers:
        run = digits(folder / f"seed-{seed}", seed=seed)
        last = json.loads((run / "result.json").read_text())["last"]
        last |= {"top1": 80 + seed + better, "few": 50 + seed + 2 * better}
        other(run, {"train.seed": seed, **recipe}, last=last)
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two recipes with three seeds each: one nine points better on top-1."""
    folder = tmp_path_factory.mktemp("pair")
    a = seeds(folder / "plain", (0, 1, 2), **{"method.name": "ce"})
    b = seeds(folder / "better", (0, 1, 2), better=9, **{"method.name": "glmc"})
    return a, b, write([a, b], folder / "page.html").read_text()


def test_pages_need_no_torch(tmp_path):
    runs = [digits(tmp_path / "a", side=8), other(digits(tmp_path / "b", side=8), {"method.name": "x"})]
    program = (
        "import sys; from pathlib import Path; from glmc.report import compare; from glmc.screen import Screen; "
        "compare.write([Path(p) for p in sys.argv[1:]], Path(sys.argv[1]) / 'page.html', Screen()); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, *map(str, runs)], check=True)


def test_one_run_gives_its_report(tmp_path):
    run = digits(tmp_path / "run")
    assert write([run]) == run / "report.html"
    before = (run / "report.html").read_text()
    assert write([run], tmp_path / "elsewhere.html").read_text() == before


def test_a_folder_of_seeds_is_one_entry(tmp_path):
    target = write([seeds(tmp_path / "many", (0, 1, 2))])
    assert target == tmp_path / "many" / "report.html"
    text = Text(target.read_text()).all
    assert "81.00 ± 1.00" in text
    assert "3 seeds" in text
    assert "Is the difference real?" not in text


def test_several_runs_go_to_the_folder_one_is_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [digits(tmp_path / "a"), other(digits(tmp_path / "b", seed=1), {"method.name": "x"})]
    assert write(runs).name == "comparison.html"
    assert (tmp_path / "comparison.html").exists()


def test_runs_that_differ_in_the_seed_only_count_together(tmp_path):
    runs = [digits(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    again = digits(tmp_path / "again", seed=1)
    changed = other(digits(tmp_path / "changed", seed=2), {"optim.lr": 0.5})
    moved = other(
        digits(tmp_path / "moved", seed=3), {"data.root": "/elsewhere", "train.track": ["wandb"], "expect.top1": 96.5}
    )
    found = entries.gather([finished.read(run) for run in (*runs, again, changed, moved)])
    assert [[run.folder.name for run in entry.runs] for entry in found] == [["0", "1", "moved"], ["again"], ["changed"]]
    assert [entry.letter for entry in found] == ["A", "B", "C"]
    assert len({entry.label for entry in found}) == 3
    values = [json.loads((run / "result.json").read_text())["last"]["top1"] for run in (*runs, moved)]
    assert found[0].scores["top1"]["mean"] == pytest.approx(statistics.fmean(values))
    assert found[0].scores["top1"]["sd"] == pytest.approx(statistics.stdev(values))
    assert entries.differing(found) == {"optim.lr": ["–", "–", 0.5]}


def test_letters_go_on_after_z():
    assert [entries.letter(place) for place in (0, 25, 26, 51, 52, 702)] == ["A", "Z", "AA", "AZ", "BA", "AAA"]


def test_a_clear_gap_is_called_so(pair):
    text = Text(pair[2]).all
    assert "B is better than A: 9.0 points higher" in text
    assert "Welch's t-test over 3 and 3 seeds" in text
    assert re.search(r"few 200 images \+18\.0 \S+ to \S+ higher", text)
    assert "method.name ce glmc" in text
    assert "81.00 ± 1.00" in text
    assert "90.00 ± 1.00" in text


def test_a_small_gap_is_called_noise(tmp_path):
    a = seeds(tmp_path / "a", (0, 1, 2))
    b = seeds(tmp_path / "b", (0, 1, 2), better=0.5, **{"method.name": "x"})
    text = Text(write([a, b], tmp_path / "page.html").read_text()).all
    assert "The difference between B and A cannot be told from noise: B is 0.5 points higher" in text
    assert "B is better" not in text


def test_no_p_value_stands_without_words(pair, tmp_path):
    for name in ("page.html", "table.md"):
        text = write(pair[:2], tmp_path / name).read_text()
        for found in re.finditer(r"\(p [=<&]", text):
            assert "would come by chance in" in text[found.start() - 120 : found.start()]


def test_more_entries_make_the_verdict_stricter(tmp_path):
    """Holm: what would pass alone need not pass among several."""
    first = seeds(tmp_path / "a", (0, 1, 2))
    rest = [seeds(tmp_path / f"b{i}", (0, 1, 2), better=2.5, **{"optim.lr": i}) for i in range(4)]
    read = entries.gather([finished.read(run) for run in entries.find([first, *rest])[0]])
    alone, among = compare.verdicts(read[:2]), compare.verdicts(read)
    assert alone[0]["rows"][0]["word"] == "higher"
    assert among[0]["rows"][0]["word"] == "within noise"
    assert len(among) == 4


def test_single_runs_are_paired_over_their_test_images(tmp_path):
    a = digits(tmp_path / "a", side=8)
    b = other(digits(tmp_path / "b", side=8), {"method.name": "x"})
    rows = list(csv.reader((b / "predictions.csv").open(newline="")))
    mended = [i for i, row in enumerate(rows) if i and row[1] != row[2]][:30]
    for i in mended:
        rows[i][2] = rows[i][1]
    with (b / "predictions.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    text = Text(write([a, b], tmp_path / "page.html").read_text()).all
    assert f"B is better than A: {100 * len(mended) / 500:.1f} points higher" in text
    assert "paired over 500 test images, 30 of which only one of the two has right" in text
    assert "A with seed 0, B with seed 0" in text
    assert "other seeds may reverse it" in text


def test_without_evidence_nothing_is_claimed(tmp_path):
    runs = [digits(tmp_path / "a"), other(digits(tmp_path / "b", seed=1), {"method.name": "x"})]
    text = Text(write(runs, tmp_path / "page.html").read_text()).all
    assert "Whether that is noise cannot be told" in text
    assert "no predictions.csv" in text


def test_single_runs_without_predictions_are_compared_over_many_classes(tmp_path):
    runs = [many_classes(tmp_path / "a", 60), other(many_classes(tmp_path / "b", 60, seed=1), {"method.name": "x"})]
    rows = compare.verdicts(entries.gather([finished.read(run) for run in runs]))[0]["rows"]
    assert "balanced" in [row["metric"] for row in rows]
    assert "top-1" not in [row["metric"] for row in rows]


def test_other_classes_and_other_test_images_are_refused(tmp_path):
    a = digits(tmp_path / "a", side=8)
    names = run_folder(tmp_path / "names", [name.upper() for name in DIGITS], falling(10, 127, 25))
    with pytest.raises(UserError, match=r"a and .*names have different classes"):
        write([a, names], tmp_path / "page.html")
    fewer = run_folder(tmp_path / "fewer", DIGITS, falling(10, 127, 25), per_class=40)
    with pytest.raises(UserError, match=r"tested on different images"):
        write([a, fewer], tmp_path / "page.html")
    renamed = other(digits(tmp_path / "renamed", side=8), {"method.name": "x"})
    lines = (renamed / "predictions.csv").read_text().splitlines(keepends=True)
    (renamed / "predictions.csv").write_text(lines[0] + "".join("other-" + line for line in lines[1:]))
    with pytest.raises(UserError, match=r"tested on different images"):
        write([a, renamed], tmp_path / "page.html")


def test_other_training_data_networks_and_lengths_are_flagged(tmp_path):
    a = digits(tmp_path / "a", side=8)
    b = run_folder(tmp_path / "b", DIGITS, falling(10, 90, 10), side=8, epochs=4, backbone="resnet32_w64")
    c = other(digits(tmp_path / "c", side=8), {"data.split": "du", "eval.few": "<=20"}, learnt=640)
    other(c, {"model.pretrained": "w.safetensors", "model.freeze": True})
    text = Text(write([a, b, c], tmp_path / "page.html").read_text()).all
    assert "A and B were trained on different data" in text
    assert "A and B are different networks (resnet32, 0.47 M parameters, and resnet32_w64" in text
    assert "A and B were trained for 8 and 4 epochs" in text
    assert "A and B do not begin" not in text
    assert "A: random weights at the start; C: weights loaded from w.safetensors, backbone frozen, 640 of them" in text
    assert "A and C differ in data.split" in text
    assert "A and C draw the border of few differently" in text
    assert "Accuracy against class frequency is left out" in text
    against = text[text.index("B against A") : text.index("C against A")]
    assert not re.search(r"\b(many|medium|few)\b", against), "groups of other classes are not compared"


def test_unfinished_missing_and_repeated_runs(tmp_path):
    folder = seeds(tmp_path / "some", (0, 1))
    (folder / "seed-2").mkdir()
    (folder / "seed-2" / "recipe.yaml").write_text("train: {seed: 2}")
    assert "1 of the 3 runs in" in Text(write([folder]).read_text()).all
    with pytest.raises(UserError, match=r"seed-2 is not the folder of a finished run"):
        write([folder / "seed-2", folder / "seed-1"], tmp_path / "page.html")
    with pytest.raises(UserError, match=r"nowhere is not the folder of a finished run"):
        write([tmp_path / "nowhere"])
    with pytest.raises(UserError, match=r"seeds.json is not the folder of a finished run"):
        write([folder / "seeds.json"])
    with pytest.raises(UserError, match=r"seed-0 is named twice"):
        write([folder, folder / "seed-0"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty is neither a finished run nor a folder"):
        write([tmp_path / "empty"])
    with pytest.raises(UserError, match=r"ends in .html, .md or .csv"):
        write([folder], tmp_path / "page.pdf")
    with pytest.raises(UserError, match=r"cannot be written"):
        write([folder], tmp_path / "missing" / "table.csv")


def test_a_sweep_is_ranked_by_validation_images_if_it_has_some(tmp_path):
    sweep = tmp_path / "sweep"
    runs = [other(digits(sweep / str(i), seed=i), {"optim.lr": i}) for i in range(2)]
    (sweep / "sweep.json").write_text("{}")
    assert "no validation images, and data.val_fraction=0.1 would" in write([sweep], tmp_path / "table.md").read_text()
    rows = [{"point": "a", "balanced": 60, "validation": None}, {"point": "b", "balanced": 50, "validation": 70}]
    assert ranking.rank(rows)[0][0] == {"rank": 1, "point": "a", "balanced": 60}
    assert "too good" in ranking.rank(rows)[1]
    for i, run in enumerate(runs):
        record = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1]) | {"val": {"balanced": 50 + 20 * i}}
        (run / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    assert ranking.on_validation(runs) == 60
    assert ranking.rank([{**rows[0], "validation": 65}, rows[1]])[0][0]["point"] == "b"
    assert (
        "sweep.md ranks the points by their validation" in Text(write([sweep], tmp_path / "page.html").read_text()).all
    )


def test_csv_holds_every_figure_in_full(pair, tmp_path):
    with write(pair[:2], tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["entry"] for row in rows] == ["A", "B"]
    expected = report.summary(sorted(pair[1].glob("seed-*")))
    for name, score in expected.items():
        assert float(rows[1][name]) == score["mean"]
        assert float(rows[1][f"{name}_sd"]) == score["sd"]
    assert rows[1]["network"] == "resnet32"
    assert rows[1]["parameters"] == "466906"
    assert rows[1]["seeds"] == "0 1 2"


def test_markdown_is_a_table_with_the_network_beside_the_accuracy(pair, tmp_path):
    lines = write(pair[:2], tmp_path / "table.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:4]]
    assert len({len(row) for row in cells}) == 1
    assert cells[3][2:5] == ["resnet32", "466,906", "3"]
    assert "90.00 ± 1.00" in cells[3]
    assert any("B is better than A" in line for line in lines)


def test_the_page_needs_nothing_from_outside(pair):
    seen = Text(pair[2])
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(seen.tags)
    assert_no_nan(pair[2])
    for svg in re.findall(r"<svg.*?</svg>", pair[2], re.DOTALL):
        assert re.findall(r"#[0-9a-f]{6}\b", svg) == []


def test_hostile_names_and_many_entries(tmp_path):
    runs = [other(digits(tmp_path / f"<b>{i}|", epochs=2), {"optim.lr": i}, method=f"<i>{i}|") for i in range(12)]
    html = write(runs, tmp_path / "page.html").read_text()
    assert "<i>3|" in Text(html).all
    assert "i" not in Text(html.replace('<i style="', "").replace('<i class="', "")).tags
    assert "The first 8 of 12 entries." in html
    table = write(runs, tmp_path / "table.md").read_text().splitlines()
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table[:14]}) == 1


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: the page's layout was not looked at")
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows_in_a_browser(tmp_path, pair, width):
    assert_fits(tmp_path, pair[2], width, 6)


def test_a_thousand_classes(tmp_path):
    runs = [many_classes(tmp_path / "a", 1000, per_class=10, side=8)]
    runs.append(other(many_classes(tmp_path / "b", 1000, per_class=10, side=8, seed=1), {"method.name": "x"}))
    # The same images in the same order: only the answers differ.
    assert np.array_equal(*[finished.read(run).predictions.true for run in runs])
    html = write(runs, tmp_path / "page.html").read_text()
    assert_no_nan(html)
    assert "Each line is the mean of neighbouring classes." in html
    assert len(html) < 1_000_000
