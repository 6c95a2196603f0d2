"""A user's folder with a recipe and methods, what is said of mistakes in it, and the table of tests/faults."""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from glmc import __main__, recipe, trust
from glmc.errors import UserError
from glmc.recipe import choice

# So small are the networks of the tests that threads would only wait for each other; nothing has imported torch yet.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """The command, called in this process, tells those that it starts where not to look for code; no other test's."""
    os.environ.pop("PYTHONSAFEPATH", None)
    yield
    os.environ.pop("PYTHONSAFEPATH", None)


@pytest.fixture(scope="module")
def no_report() -> Iterator[None]:
    """An empty page stands for the report, which takes longer than such a run, and has tests of its own."""
    from glmc import report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write", lambda run: (run / "report.html").touch())
        yield


Outcome = Literal["survived", "lost", "silent"]  # as promised or a sentence; work is gone; nobody was told


SLOW = {f"test_{name}.py" for name in ("ranks", "systems", "campaign", "run", "readme", "leaderboard", "graph")}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of a minute come first, so that no process of -n waits for one of them at the end."""
    items.sort(key=lambda item: item.path.name not in SLOW)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--json", type=Path, help="--json=FILE: write the table of tests/faults into it")


@pytest.fixture
def noted(request: pytest.FixtureRequest) -> Callable[[str, Outcome], None]:
    """(fault, outcome): one line more in the table."""

    def note(fault: str, outcome: Outcome) -> None:
        request.node.user_properties.append(("fault", (fault, outcome)))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    found = Counter(
        tuple(value)
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == "fault"
    )
    faults = sorted({fault for fault, _ in found})
    if not faults:
        return
    table = [
        {"fault": fault, "tried": sum(counts.values()), **counts}
        for fault in faults
        for counts in [{outcome: found[fault, outcome] for outcome in ("survived", "lost", "silent")}]
    ]
    terminalreporter.section("faults")
    for row in table:
        terminalreporter.write_line(
            "{fault:60} {tried:6} tried {survived:6} survived {lost:4} lost {silent:4} silent".format(**row)
        )
    if file := config.getoption("--json"):
        import torch

        from glmc import runtime

        command = f"python -m pytest -m {config.option.markexpr!r} --json=FILE"
        record = {**runtime.environment(torch.device("cpu"), "float32", command), "faults": table}
        file.write_text(json.dumps(record, indent=1) + "\n")


@pytest.fixture
def in_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """The command, as if nobody had trusted anything yet: words -> (exit code, standard output, standard error)."""

    def called(*words: object) -> tuple[int, str, str]:
        with monkeypatch.context() as patch:
            for name in ("_typed", "_folders", "_everything", "_files"):
                patch.setattr(trust, name, type(getattr(trust, name))())
            patch.setattr(sys, "path", list(sys.path))
            patch.setattr(sys, "argv", ["glmc", *map(str, words)])
            patch.delitem(sys.modules, "mine", raising=False)
            choice.class_of.cache_clear()
            choice.settings.cache_clear()
            with pytest.raises(SystemExit) as ended:
                __main__.main()
        return ended.value.code or 0, *capsys.readouterr()

    return called


RIGHT = """\
# Cats with a long tail.
#
#   run   glmc train cats.yaml

published: {top1: 87.75, network: resnet32_w64, source: README 2023-05-15}
expect: null
data:
  name: folder   # a comment
  imbalance: 100
views: {train: [{crop: 4}, flip, {resized_crop: {size: 32}}], test: []}
model: {name: resnet32}
method: {name: "shop.methods:Mixer", strength: 3}
optim:
  name: sgd
  lr: 1e-1
  weight_decay: 5e-3
train:
  epochs: 200
eval: {few: "<=20"}
"""

METHOD = '''\
from typing import Literal

from glmc.losses.base import Loss
from glmc.methods.base import Method


class Base(Method):
    def __init__(self, *parts, strength: float = 2, depth: int | None = None):
        super().__init__(*parts)


class Mixer(Base):
    """Says more than its base and hands on the rest."""

    def __init__(self, *parts, share: Literal["box", "drawn"] = "box", slow: bool = False, **rest):
        super().__init__(*parts, **rest)


class Heir(Mixer):
    pass


class Needy(Base):
    def __init__(self, *parts, rate: float):
        super().__init__(*parts)


class Vague(Base):
    def __init__(self, *parts, rate=0.5):
        super().__init__(*parts)


class Odd(Base):
    def __init__(self, *parts, rate: bytearray = bytearray()):
        super().__init__(*parts)


class IllTyped(Base):
    def __init__(self, *parts, rate: int = 0.5):
        super().__init__(*parts)


class TwoHeads(Base):
    def __init__(self, *parts, other: Loss | None = None):
        super().__init__(*parts)


class NoMethod:
    pass
'''


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder as the working directory: a package with methods that may be imported, and a recipe."""
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "methods.py").write_text(METHOD)
    (package / "more.py").write_text("import no_such_library\n")
    (package / "broken.py").write_text("class Mixer(:\n")
    (tmp_path / "cats.yaml").write_text(RIGHT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(trust, "_everything", [True])
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[name]
    choice.class_of.cache_clear()
    choice.settings.cache_clear()


@pytest.fixture
def complaint(shop: Path) -> Callable[..., str]:
    """(file, *overrides) -> the sentences that refuse them."""

    def refused(file: str, *overrides: str) -> str:
        with pytest.raises(UserError) as caught:
            recipe.load(file, overrides)
        return str(caught.value)

    return refused


@pytest.fixture
def said_of(complaint: Callable[..., str]) -> Callable[[str], str]:
    """An override of cats.yaml -> the sentence that refuses it, without the place, which must stand before it."""

    def said(override: str) -> str:
        place = f"override {override}: " if len(override) <= 60 else f"override {override[:57]}...: "
        sentence = complaint("cats.yaml", override)
        assert sentence.startswith(place)
        return sentence.removeprefix(place)

    return said
