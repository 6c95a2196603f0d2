"""The grid: its points, its folder, going on after an interruption, its tables."""

import csv
import json
import shutil
import time

import pytest

from glmc import recipe
from glmc.errors import NonFiniteLoss, UserError
from glmc.train.sweep import lay_out, name_of, points, split_values, sweep

QUIET = {"command": "glmc", "quiet": True, "since": time.perf_counter()}
pytestmark = pytest.mark.usefixtures("no_report")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2", ["1", "2"]),
        ("0.5", ["0.5"]),
        ("{name: none},{name: mixup, alpha: 1}", ["{name: none}", "{name: mixup, alpha: 1}"]),
        ("[1, 2],[3]", ["[1, 2]", "[3]"]),
        ("'<20','<=20'", ["'<20'", "'<=20'"]),
        ('"a,b",c', ['"a,b"', "c"]),
    ],
)
def test_values_stand_between_outer_commas(text, values):
    assert split_values(text) == values


def test_points_are_all_combinations():
    assert points(["a=1,2", "b=x,y"]) == [("a=1", "b=x"), ("a=1", "b=y"), ("a=2", "b=x"), ("a=2", "b=y")]
    assert points([]) == [()]


def test_several_recipes_are_an_axis_and_single_values_hold_for_all():
    bases = [recipe.load(name) for name in ("digits_lt/ce", "digits_lt/glmc")]
    laid = lay_out(bases, ["train.epochs=3", "optim.lr=0.1,0.2"])
    assert [point.label for point in laid] == [
        "digits_lt/ce optim.lr=0.1",
        "digits_lt/ce optim.lr=0.2",
        "digits_lt/glmc optim.lr=0.1",
        "digits_lt/glmc optim.lr=0.2",
    ]
    assert {point.recipe.train.epochs for point in laid} == {3}
    assert [point.recipe.optim.lr for point in laid] == [0.1, 0.2] * 2


@pytest.mark.parametrize("assignment", ["a=1,,2", "a=1,1", "a="])
def test_empty_and_repeated_values_are_refused(assignment):
    with pytest.raises(UserError, match="give different values between commas"):
        points([assignment])


def test_two_recipes_of_one_name_are_refused():
    base = recipe.load("digits_lt/ce")
    with pytest.raises(UserError, match="two recipes of the sweep have the same name"):
        lay_out([base, base], [])


def test_a_point_that_diverges_is_named_and_the_others_stand(tmp_path):
    base = recipe.load("digits_lt/ce", ["train.max_steps=4", "train.precision=float32"])
    with pytest.raises(NonFiniteLoss, match="1 runs of the sweep became non-finite"):
        sweep([base], ["optim.lr=1e18,0.1"], [0], tmp_path / "sweep", **QUIET)
    with (tmp_path / "sweep" / "sweep.csv").open() as file:
        assert [row["point"] for row in csv.DictReader(file)] == ["optim.lr=0.1"]


def test_a_sweep_leaves_a_table_and_goes_on_where_it_stopped(tmp_path):
    base = recipe.load("digits_lt/glmc", ["train.max_steps=4", "train.precision=float32", "expect=null"])
    out = tmp_path / "sweep"
    grid = ["method.contrast_weight=0,4"]
    sweep([base], grid, [0, 1], out, **QUIET)
    with (out / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["point"] for row in rows} == {"method.contrast_weight=0", "method.contrast_weight=4"}
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert float(rows[0]["balanced"]) >= float(rows[1]["balanced"])
    assert "validation" not in rows[0]
    assert all(row["seeds"] == "2" and float(row["top1"]) >= 0 and row["top1_sd"] for row in rows)
    table = (out / "sweep.md").read_text()
    assert table.startswith("Ranked by the balanced accuracy on the test images: the figures of the best point are too")
    assert "glmc + class_weighted + mixup_cutmix" in table
    assert "294,916" in table  # parameters stand beside every accuracy
    assert (out / "sweep.png").stat().st_size > 5000
    assert (out / "confusion.png").stat().st_size > 5000

    kept = json.loads((out / name_of("method.contrast_weight=0", 0) / "result.json").read_text())
    lost = out / name_of("method.contrast_weight=4", 1)
    (lost / "result.json").unlink()  # as if it had been killed before its end
    never = out / name_of("method.contrast_weight=4", 0)
    shutil.rmtree(never)
    sweep([base], grid, [0, 1], out, **QUIET)
    assert (lost / "result.json").exists()
    assert (never / "result.json").exists()
    assert json.loads((out / name_of("method.contrast_weight=0", 0) / "result.json").read_text()) == kept
    assert (out / "sweep.md").read_text() == table

    with pytest.raises(UserError, match="another sweep lies there"):
        sweep([base], ["method.contrast_weight=0,5"], [0], out, **QUIET)
    with pytest.raises(UserError, match=r"contrast_weigth"):
        sweep([base], ["method.contrast_weigth=0,5"], [0], tmp_path / "other", **QUIET)
    assert not (tmp_path / "other").exists()
