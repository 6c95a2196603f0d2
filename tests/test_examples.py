"""Every example runs as it is printed, made short, and ends with a figure."""

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
EPOCHS = {"01_image_folder": 1, "03_timm_backbone": 1, "05_lightning": 1}  # the others learn in a second
LEAST = {"02_own_loop": 35, "04_second_stage": 40, "06_skeletons": 60}  # percent, and chance is 10, 10 and 17


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_ends_with_a_figure(file, monkeypatch, capsys):
    if file.stem == "05_lightning" and importlib.util.find_spec("lightning") is None:
        pytest.skip("Lightning is not installed")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the example must say so, and go on
    monkeypatch.setattr(sys, "argv", [str(file), "--epochs", str(EPOCHS.get(file.stem, 6))])
    runpy.run_path(str(file), run_name="__main__")
    said = capsys.readouterr().out
    figures = [float(figure) for figure in re.findall(r"([\d.]+) %", said.splitlines()[-1])]
    assert figures
    assert LEAST.get(file.stem, 0) <= figures[0] <= 100


def test_there_is_one_for_each_question():
    assert [file.stem[:2] for file in EXAMPLES] == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_says_how_it_is_run(file):
    text = file.read_text()
    assert f"python examples/{file.name}" in text.split('"""')[1]
    assert len(text.splitlines()) < 70


def test_the_lightning_example_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", None)  # as if it were not installed
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(EXAMPLES[4]), run_name="__main__")
    assert left.value.code == "this example needs Lightning: python -m pip install lightning"


@pytest.fixture(autouse=True)
def state_restored():
    """An example is a program of its own and sets what a program may set."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(threads)
