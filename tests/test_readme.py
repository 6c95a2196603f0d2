"""What the README promises, executed: its first screen, its map, its figures."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_first_screen_holds_the_two_commands():
    first_screen = "\n".join(README.splitlines()[:40])
    assert "python -m pip install . && glmc train" in first_screen
    assert 'python -m pip install ".[test]" && python -m pytest' in first_screen


def test_glmc_train_without_arguments_ends_well(tmp_path):
    """The first command, as a newcomer types it, in an empty folder."""
    done = subprocess.run([sys.executable, "-m", "glmc", "train"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "runs" / "digits_lt-glmc-001" / "result.json").read_text())
    assert result["recipe"] == "digits_lt/glmc"
    expect = result["expect"]
    assert abs(result["last"]["top1"] - expect["top1"]) < max(5 * expect["sd"], 2.0), (
        "far from the recorded expectation"
    )
    assert f"{result['last']['top1']:.2f}" in done.stdout
    assert "runs/digits_lt-glmc-001" in done.stdout


COMMANDS = sorted(set(re.findall(r"^    (glmc (?:show|list|cache|train).*?)(?:  #.*)?$", README, re.M)))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_readme_are_understood(command, tmp_path, monkeypatch, in_a_process_of_its_own):
    """Each is checked as far as `show` goes, which reads a recipe and its overrides in full, or run if it is quick."""
    words = command.split("#")[0].split()
    if words[1] == "train":
        if "--resume" in words or len(words) == 2:
            pytest.skip("executed by other tests")
        words = ["glmc", "show", *[word for word in words[2:] if "=" in word or "/" in word]]
        if len(words) == 2 or "=" in words[2]:  # no recipe: one for the user's own photographs is chosen
            words.insert(2, "folder/finetune")
    monkeypatch.setenv("GLMC_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    code, _, errors = in_a_process_of_its_own(*words[1:])
    assert code == 0, errors


def test_every_file_of_the_map_is_there():
    names = re.findall(
        r"^  (\w+(?:\.\w+)?/?)  ", README.partition("## Where everything lives")[2].split("```")[1], re.M
    )
    assert len(names) > 15
    missing = [name for name in names if not (ROOT / "src" / "glmc" / name).exists()]
    assert not missing


def test_every_record_that_is_named_exists_and_says_so():
    """`expect` in a recipe, and figures in the README, are copies of records."""
    from glmc import recipe

    for name in recipe.names():
        expect = recipe.load(name).expect
        if expect is None:
            continue
        record = json.loads((ROOT / "benchmarks" / "records" / expect.record).read_text())
        assert record["recipe"] == name
        assert round(record["last"]["top1"]["mean"], 2) == expect.top1
        assert round(record["last"]["top1"]["sd"], 2) == expect.sd
        assert record["last"]["top1"]["n"] == expect.seeds
    for path in re.findall(r"benchmarks/records/[\w./-]+\.json", README):
        assert (ROOT / path).is_file(), path


FAULTS = {  # row of the README -> how the faults in it begin
    "kills and signals": ("SIGKILL", "kill ", "interrupted", "signals", "a streaming worker"),
    "disks, memory, shared memory, file handles, homes, several processes": (
        "a disk", "a full", "a read-only", "a vanished", "few ", "little ", "no home", "two ",
    ),
    "damaged, exchanged and hostile run folders": ("a run ",),
    "damaged and odd images, by four readers": ("damaged image", "label "),
    "pickle gadgets, bombs, lying headers, path escapes, names with HTML or formulas": (
        "bomb", "gadget", "zip bomb", "YAML bomb", "lying", "weights of", "path escape", "links", "HTML", "commands",
        "formulas",
    ),
    "bad lines of lists, tables, recipes and hub folders": ("a bad", "a scrambled"),
    "NaN and infinity in images, losses, gradients and all that is saved": ("NaN",),
}  # fmt: skip


def test_the_table_of_faults_is_its_record():
    record = json.loads((ROOT / "benchmarks/records/2026-11-22-faults/faults.json").read_text())
    rows = []
    for name, begins in FAULTS.items():
        of = [row for row in record["faults"] if row["fault"].startswith(begins)]
        rows.append([name, *(f"{sum(row[key] for row in of):,}" for key in ("tried", "survived", "lost", "silent"))])
    assert sum(int(row[1].replace(",", "")) for row in rows) == sum(row["tried"] for row in record["faults"])
    assert [" | ".join(row) for row in rows if f"| {' | '.join(row)} |" not in README] == []
