"""Run folders as a disk, a hurried hand or an enemy leaves them: each fault is told, or nothing has changed."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from glmc import __main__, recipe, report
from glmc.data import cache
from glmc.data.prepare import refuse_unwritable
from glmc.errors import UserError
from glmc.report import finished
from glmc.runs import checkpoint, folder
from glmc.runs import trained as trained_run
from glmc.train import run

TINY = """
data:   {name: digits, imbalance: 4, n_max: 12, batch_size: 32}
views:  {train: [{crop: 1}], test: []}
model:  {name: resnet20}
method: {name: supervised}
optim:  {name: sgd, lr: 0.05, weight_decay: 5e-4}
train:  {epochs: 3, precision: float32, device: cpu}
eval:   {batch_size: 250}
"""
SEAL = (checkpoint.MANIFEST, checkpoint.STATE)
ODD = (None, True, -1, 1e300, 10**30, "x", [], {}, [[]], "\0")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run, and one of other classes."""
    base = tmp_path_factory.mktemp("runs")
    (base / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write", lambda run: None)  # it takes longer than such a run
        for number, words in enumerate([(), ("data.n_max=16",)]):
            wanted = recipe.load(str(base / "tiny.yaml"), words)
            run.train(wanted, base / str(number), command="glmc train tiny.yaml", quiet=True, since=0.0)
    return base / "0", base / "1"


def flipped(content: bytes, rng: random.Random) -> bytes:
    """One bit is another."""
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def truncated(content: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return content[: rng.randrange(len(content))]


def deep(content: bytes, rng: random.Random) -> bytes:
    """Brackets without end."""
    return rng.choice([b"[", b'{"a":']) * 100_000


def retyped(content: bytes, rng: random.Random) -> bytes:
    """A value of a JSON document, or a line of several, has become another, or is gone."""
    lines = content.split(b"\n")
    number = rng.randrange(len(lines)) if lines[0].endswith(b"}") else None
    tree = json.loads(content if number is None else lines[number] or b"{}")
    place = tree
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = rng.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.7:
            place = place[key]
        elif rng.random() < 0.3:
            del place[key]
            break
        else:
            place[key] = rng.choice(ODD)
            break
    whole = json.dumps(tree).encode()
    return whole if number is None else b"\n".join([*lines[:number], whole, *lines[number + 1 :]])


def older(content: bytes, rng: random.Random) -> bytes:
    """Of another version of the program."""
    return content.replace(b'"format": 3', b'"format": 2').replace(b'"schema": 1', b'"schema": 0')


def files_of(run: Path) -> list[Path]:
    """All files of a run that something reads."""
    return sorted(file for file in run.rglob("*") if file.is_file() and file.suffix not in (".png", ".html", ".txt"))


def reseal(point: Path) -> None:
    """Give a checkpoint that was changed a manifest that fits it."""
    manifest = json.loads((point / checkpoint.MANIFEST).read_bytes())
    del manifest["sha256"]
    for name in manifest["files"]:
        content = (point / name).read_bytes()
        manifest["files"][name] = {"bytes": len(content), "sha256": checkpoint.hashlib.sha256(content).hexdigest()}
    (point / checkpoint.MANIFEST).write_bytes(checkpoint._seal(manifest))


def damaged(run: Path, other: Path, rng: random.Random) -> tuple[str, Path]:
    """Do something to a file of a run; the fault, and the file."""
    file = rng.choice(files_of(run))
    ways: list[Callable[[bytes, random.Random], bytes]] = [flipped, truncated]
    if file.suffix in (".json", ".jsonl"):
        ways += [deep, retyped, retyped]
    if older(file.read_bytes(), rng) != file.read_bytes():
        ways += [older]
    way = rng.choice([*ways, None])
    if way is None:
        twin = other / file.relative_to(run)
        shutil.copyfile(twin if twin.exists() else rng.choice(files_of(other)), file)
        return "a file of another run", file
    content = way(file.read_bytes(), rng)
    file.write_bytes(content)
    if file.name == checkpoint.STATE and way in (deep, retyped):
        reseal(file.parent)
        return "a sealed checkpoint of hostile content", file
    return f"{way.__name__}: {file.suffix}", file


def scored(victim: Path) -> object:
    """The step and the weights of the checkpoint that every other command opens."""
    point = trained_run.find_checkpoint(victim)
    found = trained_run.load_trained(point, recipe.parse_settled(point.state["recipe"]))
    return point.step, checkpoint.weights_sha256(found.method.state_dict())


def reported(victim: Path) -> object:
    """The figures that its page is drawn from."""
    found = finished.read(victim)
    report.write(victim)
    return [found.result.as_json(), found.epochs, found.confusion.tolist(), found.predictions, found.examples]


def readers_of(file: Path) -> list[Callable[[Path], object]]:
    """Those of the three that read a file."""
    if file.name in ("recipe.yaml", "environment.json"):
        return [scored, reported, gone_on]
    return [scored, gone_on] if file.parent.name.startswith("step-") else [reported]


def gone_on(run_folder: Path) -> object:
    """The same run, resumed as if a kill had come before its result."""
    (run_folder / "result.json").unlink(missing_ok=True)
    begun = run.take_up(run_folder, (), run.Screen(quiet=True), "glmc", 0.0)
    run.dismiss(begun.parts)
    return begun.state.steps, checkpoint.weights_sha256(begun.parts.method.state_dict())


@pytest.mark.parametrize("number", [8, pytest.param(1000, marks=pytest.mark.faults)])
def test_mutated_run_folders_are_told(runs, tmp_path, noted, capsys, number):
    whole, other = runs
    rng, wrong = random.Random(number), []
    shutil.copytree(whole, tmp_path / "whole")
    expected = {use: use(tmp_path / "whole") for use in (scored, reported, gone_on)}
    for case in range(number):
        victim = tmp_path / str(case)
        shutil.copytree(whole, victim)
        fault, file = damaged(victim, other, rng)
        outcome, said = "survived", []
        for use in readers_of(file):
            right = expected[use]
            capsys.readouterr()
            try:
                found = use(victim)
            except UserError as error:
                said.append(str(error))
                if "\n" in str(error) and "mistakes" not in str(error):
                    wrong.append((case, fault, file.relative_to(victim), str(error)))
                    outcome = "lost"
            except Exception as error:
                code = __main__.explain(error)[1]
                if code != 2:
                    wrong.append((case, fault, file.relative_to(victim), repr(error)[:300]))
                    outcome = "lost"
            else:
                told = capsys.readouterr().err
                if repr(found) != repr(right) and not (told or said):
                    wrong.append((case, fault, file.relative_to(victim), f"silently {found} instead of {right}"))
                    outcome = "silent"
        noted(f"a run folder, {fault}", outcome)
        shutil.rmtree(victim)
    assert not wrong, "\n".join(map(str, wrong))


def test_a_folder_is_claimed_once_and_held(tmp_path):
    with folder.claimed(tmp_path / "run", "tiny") as out:
        with pytest.raises(UserError, match="another process is training there"), folder.held(out):
            pass
        (out / ".tmp-1-0-recipe.yaml").touch()
    with folder.claimed(out, "tiny"):  # as a kill before its recipe leaves it
        assert not list(out.glob(".tmp-*"))
        (out / "recipe.yaml").touch()
    with pytest.raises(UserError, match="not empty"), folder.claimed(out, "tiny"):
        pass


def test_a_class_that_cannot_be_written_down_is_refused():
    for name in ("a\rb", "a\udcff", "\x1b[31m"):
        with pytest.raises(UserError, match=r"the class '.*\\.*rename"):
            refuse_unwritable(["cat", name])


def test_what_was_read_from_the_cache_stays_and_exchanged_sets_are_decoded_again(tmp_path):
    said: list[str] = []
    for name, value in (("a" * 64, 1), ("b" * 64, 2)):
        cache.write(tmp_path, name, np.full((3, 4), value), "images", said.append)
    found = cache.read(tmp_path, "a" * 64, said.append)
    with (tmp_path / f"{'a' * 64}.npy").open("r+b") as file:
        file.truncate(200)
    assert (found == 1).all()
    assert not said
    for ending in (".npy", ".json"):
        (tmp_path / f"{'b' * 64}{ending}").replace(tmp_path / f"{'a' * 64}{ending}")
    assert cache.read(tmp_path, "a" * 64, said.append) is None
    assert "is damaged: it is made again" in said[0]
