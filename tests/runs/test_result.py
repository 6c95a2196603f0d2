"""result.json, written, read again, and refused where it is not one."""

import json
import os

import pytest

from glmc.errors import UserError
from glmc.recipe.sections import Expect
from glmc.runs import result
from glmc.runs.result import Result

WHOLE = Result(
    recipe="digits_lt/ce", method="ce", backbone="resnet20", parameters=100, counts=[5, 3], epochs=2, steps=4, seed=0,
    last={"top1": 50.0}, best_on_test={"top1": 75.0, "epoch": 1}, weights_sha256="ab",
    per_class=[{"class": str(c), "train": train, "test": 2, "recall": 50.0} for c, train in enumerate([5, 3])],
    expect=Expect(top1=60.0, sd=1.0, seeds=3, record="benchmarks/records/x.json"),
)  # fmt: skip


def test_what_is_written_is_read_again_and_what_is_none_is_absent(tmp_path):
    assert not result.finished(tmp_path)
    result.write(tmp_path, WHOLE)
    assert result.finished(tmp_path)
    assert result.read(tmp_path) == WHOLE
    keys = json.loads((tmp_path / "result.json").read_text())
    assert keys["schema"] == 1
    assert keys["best_on_test"] == {"top1": 75.0, "epoch": 1}
    assert type(result.read(tmp_path).best_on_test["epoch"]) is int
    assert not {"flip_tta", "stage1", "seconds", "published"} & set(keys)


def test_a_second_stage_knows_where_it_comes_from(tmp_path):
    assert result.stage_one(tmp_path).as_json() == {"run": str(tmp_path)}
    result.write(tmp_path, WHOLE)
    first = result.stage_one(tmp_path)
    assert (first.recipe, first.last, first.best_on_test) == (WHOLE.recipe, WHOLE.last, WHOLE.best_on_test)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "schema: Input should be 1"),
        ({"last": None}, "last: Input should be a valid dictionary"),
        ({"counts": ["many"]}, r"counts\.0: Input should be a valid integer"),
    ],
)
def test_a_file_of_another_kind_is_named_with_the_remedy(tmp_path, change, words):
    (tmp_path / "result.json").write_text(json.dumps(WHOLE.as_json() | change))
    with pytest.raises(UserError, match=f"result.json is damaged .{words}.*train again"):
        result.read(tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "result.json").write_text('{"schema": 1, "rec')
    with pytest.raises(UserError, match=r"result\.json is damaged .Unterminated"):
        result.read(tmp_path)


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "result.json")
    with pytest.raises(UserError, match=r"result\.json cannot be read .not a file"):
        result.read(tmp_path)
