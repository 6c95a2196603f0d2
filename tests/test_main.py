"""Whose code the command runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from glmc import __main__, report

OWN = """\
from pathlib import Path

from glmc.losses.cross_entropy import CrossEntropy

Path(__file__).with_name("executed").touch()


class Louder(CrossEntropy):
    def __init__(self, counts, *, volume: float = 1.0):
        super().__init__(counts)
        self.volume = volume

    def forward(self, logits, targets, progress):
        return self.volume * super().forward(logits, targets, progress)
"""


def test_no_file_beside_the_data_is_executed(tmp_path):
    """Optional modules of libraries, and classes of images that are called like some."""
    for name in ("olefile", "msvcrt", "defusedxml", "IPython"):
        (tmp_path / f"{name}.py").write_text("open('executed', 'w')")
    for name in ("regex", "tabulate"):
        (tmp_path / name).mkdir()
    done = subprocess.run([sys.executable, "-m", "glmc", "stats", "."], cwd=tmp_path, capture_output=True, text=True)
    assert "holds no images" in done.stderr
    assert not (tmp_path / "executed").exists()


@pytest.fixture
def glmc(tmp_path, monkeypatch, in_a_process_of_its_own):
    """The command in an empty folder: words -> (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "write", lambda run: None)
    return in_a_process_of_its_own


def test_a_recipe_s_own_code_is_executed_only_on_request(tmp_path: Path, glmc, monkeypatch):
    """Typed, or in a folder that --code names, it is the user's wish; in a run or a recipe file anybody's."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "mine.py").write_text(OWN)
    typed = 'loss={name: "mine:Louder", volume: 3}'
    assert "holds it with --code DIR" in glmc("show", "digits_lt/ce", typed)[2]
    trained = ["train", "digits_lt/ce", typed, "train.max_steps=1", "--out", "run", "--quiet"]
    assert glmc("--code", "own", *trained) == (0, "", "")
    (own / "executed").unlink()
    monkeypatch.setattr(sys, "path", [*sys.path, str(own)])  # even where it could be found
    for words in (
        *(["test", "run"], ["predict", "run", "."], ["export", "run", "--format", "safetensors"]),
        *(["calibrate", "run"], ["finetune", "run", "--stage2", "crt"], ["train", "run/recipe.yaml"]),
    ):
        code, _, said = glmc(*words)
        assert code == 2
        assert "the loss 'mine:Louder' is code, which no recipe may start by itself: add --code DIR" in said
    (tmp_path / "run" / "result.json").unlink()
    assert "is code" in glmc("train", "--resume", "run")[2]
    assert not (own / "executed").exists()
    for allowed in (["--code=own"], ["--trust"]):
        code, said, _ = glmc("show", "run/recipe.yaml", *allowed)
        assert code == 0
        assert "name: mine:Louder\n  volume: 3.0\n" in said


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "too little memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), "too little memory"),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), "not in UTF-8"),
        (OSError(24, "Too many open files", "photo.png"), "photo.png cannot be used (Too many open files)"),
    ],
)
def test_what_the_machine_lacks_is_told_in_a_sentence(error, words):
    sentence, code = __main__.explain(error)
    assert (words in sentence, code) == (True, 2)
