"""The place where small runs are made, and one that nothing has happened to."""

import functools
import os
import time
from pathlib import Path

import pytest
import torch

from faults.small_runs import TINY, glmc, photographs
from glmc import models, report, runtime
from glmc.models.cifar_resnet import CifarResNet
from glmc.runs.files import write_atomic


@pytest.hookimpl(tryfirst=True)  # before tests are left out by their marks
def pytest_collection_modifyitems(config, items):
    """With -m faults, also the tests that the usual suite has in full already."""
    if config.option.markexpr == "faults":
        larger = {item.function for item in items if item.get_closest_marker("faults")}
        for item in items:
            if Path(__file__).parent in item.path.parents and item.function not in larger:
                item.add_marker("faults")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The working directory, with images and a recipe; a network so small that starting takes longer than training."""
    folder = tmp_path_factory.mktemp("faults")
    photographs(folder)
    (folder / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "CifarResNet", lambda depth, width, channels: CifarResNet(8, 4, channels))
        patch.setattr(runtime, "THREADS", 1)
        patch.setenv("GLMC_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        patch.setattr(os, "fsync", lambda handle: time.sleep(0.001))  # a quick disk: only a power cut needs a real one
        torch.set_num_threads(1)
        yield folder


@pytest.fixture(scope="module")
def whole(place):
    """(overrides) -> the run that they give when nothing goes wrong."""

    @functools.cache
    def run(*overrides: str) -> Path:
        folder = place / f"whole-{len(list(place.glob('whole-*')))}"
        assert glmc("train", "tiny.yaml", "--quiet", "--out", folder, *overrides) == 0
        return folder

    return run


@pytest.fixture
def no_report(monkeypatch):
    """A page of a word stands for the report, which takes longer than such a run."""
    monkeypatch.setattr(report, "write", lambda run: write_atomic(run / "report.html", "<html></html>"))
