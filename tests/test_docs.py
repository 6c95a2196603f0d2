"""The documentation: it builds without a warning, and its commands, paths and links are right."""

import contextlib
import io
import json
import re
import statistics
import sys
from pathlib import Path

import pytest

from glmc import __main__, trust
from glmc.cli import app

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
COMMANDS = sorted({line.strip() for page in PAGES for line in re.findall(r"^    (glmc .*)$", page.read_text(), re.M)})


def test_the_site_builds_without_a_warning(tmp_path):
    """Strict: a link or anchor that leads nowhere is a warning, and a warning ends the build."""
    pytest.importorskip("mkdocs", reason="needs mkdocs-material")
    pytest.importorskip("mkdocstrings", reason="needs mkdocstrings")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path / "site")))
    methods = (tmp_path / "site" / "reference" / "methods" / "index.html").read_text()
    assert "method.contrast_weight" in methods
    assert "arXiv:2305.08661" in methods
    recipes = (tmp_path / "site" / "reference" / "recipes" / "index.html").read_text()
    assert 'id="digits-lt-glmc"' in recipes
    assert "96.52" in recipes
    assert "Mean over the batch of -sum_c" in (tmp_path / "site" / "api" / "index.html").read_text()
    assert "train.save_minutes" in (tmp_path / "site" / "reference" / "keys" / "index.html").read_text()


def known_options():
    """Command -> its long and short options."""
    import typer

    command = typer.main.get_command(app)
    return {
        name: {option for parameter in one.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for name, one in command.commands.items()
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command, monkeypatch, tmp_path):
    """Its options exist; a recipe with its overrides is read in full."""
    import shlex

    words = shlex.split(command.partition("  #")[0])
    options = known_options()
    assert words[1] in options
    for word in words[2:]:
        if word.startswith("-"):
            assert word.partition("=")[0] in options[words[1]] | {"--code", "--trust"}, word
    if words[1] in ("train", "show") and "--resume" not in words:
        chosen = [word for word in words[2:] if "=" in word or re.fullmatch(r"\w+/\w+", word)]
        if not chosen or "=" in chosen[0]:
            chosen.insert(0, "folder/finetune")  # no recipe: one for the user's own photographs is chosen
        if "--code" in words:
            (tmp_path / "mine.py").write_text(own_method())
            monkeypatch.setattr(sys, "path", list(sys.path))
            chosen += ["--code", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["glmc", "show", *chosen])
        said = io.StringIO()
        with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as ended:
            __main__.main()
        assert not ended.value.code, said.getvalue()


def own_method():
    """The classes of the page on extending: a loss, a mixture and a method."""
    return "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extend.md").read_text(), re.S))


EXTENSIONS = {
    "loss": ('{name: "mine:Generalized", q: 0.5}', {"loss"}),
    "mixture": ('{name: "mine:LeftRight", sampling: 1.0}', {"loss"}),
    "method": ('{name: "mine:MeanTeacher", weight: 0.5}', {"loss", "agreement"}),
}


@pytest.mark.parametrize("section", EXTENSIONS)
def test_what_the_page_on_extending_adds_trains(section, tmp_path, monkeypatch):
    from glmc import recipe, report
    from glmc.train import run

    value, terms = EXTENSIONS[section]
    (tmp_path / "mine.py").write_text(own_method())
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(report, "write", lambda run: None)
    wanted = recipe.load("digits_lt/ce", [f"{section}={value}", "train.max_steps=2", "expect=null"])
    out = run.train(wanted, tmp_path / "run", command="", quiet=True, since=0.0)
    assert json.loads((out / "metrics.jsonl").read_text())["terms"].keys() == terms


def test_the_recipe_of_the_page_on_extending_is_right(tmp_path, monkeypatch):
    from glmc import recipe

    (tmp_path / "mine.py").write_text(own_method())
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(trust, "_typed", {"mine:LeftRight"})
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "extend.md").read_text(), re.S)
    assert recipe.parse(text, name="left_right").mixture.params["alpha"] == 1.0


def test_a_mixture_of_the_page_shares_labels_by_pixels(tmp_path, monkeypatch):
    import torch

    from glmc import Batch

    place = {}
    exec(own_method(), place)
    mixture = place["LeftRight"](torch.tensor([3, 3]), sampling=1.0)
    first, second = (
        Batch((torch.full((2, 1, 4, 8), value),), torch.full((2,), int(value)), None) for value in (0.0, 1.0)
    )
    images, targets = mixture(first, second, {"lam": torch.tensor(0.25)})
    assert images[0, 0, 0].tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    assert targets[0].tolist() == [0.25, 0.75]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_is_there(page):
    for path in re.findall(r"`((?:benchmarks|examples|tests|src)/[\w./-]*)`", page.read_text()):
        assert (ROOT / path).exists(), path
    if page.name == "which-method.md":
        for name in ("glmc", "ce"):
            figures = json.loads((ROOT / f"benchmarks/records/2026-11-20-digits/{name}.json").read_text())["last"][
                "top1"
            ]
            assert f"{figures['mean']:.2f} ± {figures['sd']:.2f}" in page.read_text()


def test_the_table_of_glmc_plus_is_its_record():
    page = (ROOT / "docs" / "glmc-plus.md").read_text().replace("**", "")
    record = json.loads((ROOT / "benchmarks/records/2026-11-22-study/final-tiny.json").read_text())
    for name, row in record["rows"].items():
        scores = {
            score: [run["last"][score] for run in row["runs"]] for score in ("top1", "many", "medium", "few", "ece")
        }
        mean = {score: statistics.mean(values) for score, values in scores.items()}
        spread = f" ± {statistics.stdev(scores['top1']):.2f}" if len(row["runs"]) > 1 else ""
        groups = " / ".join(f"{mean[group]:.1f}" for group in ("many", "medium", "few"))
        told = f"| {len(row['runs'])} | {mean['top1']:.2f}{spread} | {groups} | {mean['ece']:.1f} |"
        assert told in page, name
