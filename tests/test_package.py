"""The package builds, what is built holds everything a run needs, and its names are at hand as a library."""

import ast
import inspect
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

import glmc

ROOT = Path(__file__).parent.parent
NEEDED = [
    "glmc/py.typed",
    "glmc/templates/report.html",
    "glmc/templates/card.md",
    "glmc/recipes/digits_lt/glmc.yaml",
    "glmc/methods/glmc.py",
]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder with a wheel and a source distribution, built from a copy, so that nothing is left in the checkout."""
    out = tmp_path_factory.mktemp("dist")
    source = tmp_path_factory.mktemp("source") / "glmc"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return out


def test_the_wheel_holds_recipes_template_and_type_marker(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    assert not [name for name in NEEDED if name not in names]
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert sum(name.endswith(".yaml") for name in names) == len(list((ROOT / "src/glmc").rglob("*.yaml")))


def test_the_source_distribution_can_build_the_wheel_again(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = [name.partition("/")[2] for name in file.getnames()]
    assert not [name for name in NEEDED if f"src/{name}" not in names]


# --- as a library -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", glmc.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name):
    thing = getattr(glmc, name)
    assert name in dir(glmc)
    assert isinstance(thing, str) or (thing.__name__ == name and inspect.getdoc(thing))


def test_type_checkers_see_the_names_that_are_there():
    """The imports that only they read, against the table that a program reads."""
    tree = ast.parse((ROOT / "src/glmc/__init__.py").read_text())
    (checking,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {(node.module, alias.name) for node in checking.body for alias in node.names}
    assert seen == {(home, name) for home, names in glmc._HOME.items() for name in names}
    assert {"__version__", *(name for _, name in seen)} == set(glmc.__all__)
    assert len(seen) + 1 == len(glmc.__all__)


def test_a_type_checker_knows_what_the_names_are(tmp_path):
    pytest.importorskip("mypy", reason="mypy is not installed")
    program = tmp_path / "program.py"
    program.write_text("from glmc import GLMC, cutmix\nreveal_type(GLMC.predict)\nreveal_type(cutmix)\n")
    words = ["--python-executable", sys.executable, "--config-file", str(ROOT / "pyproject.toml"), str(program)]
    own = {**os.environ, "MYPYPATH": "src"}  # what mypy has kept of its last look at the checkout serves again
    done = subprocess.run([sys.executable, "-m", "mypy", *words], capture_output=True, text=True, cwd=ROOT, env=own)
    revealed = [line for line in done.stdout.splitlines() if "Revealed type" in line]
    assert len(revealed) == 2, done.stdout + done.stderr
    assert all("torch._tensor.Tensor" in line and "Any" not in line for line in revealed)


def test_a_name_that_is_not_there_is_refused():
    with pytest.raises(AttributeError, match="module 'glmc' has no attribute 'GLCM'"):
        _ = glmc.GLCM


def test_nothing_heavy_is_imported_before_it_is_asked_for():
    """`glmc --help` and completion in the shell wait for every import."""
    program = (
        "import sys, glmc; from glmc import errors; assert not hasattr(glmc, 'nothing');"
        "print({'torch', 'numpy', 'pydantic'} & set(sys.modules));"
        "from glmc import mixup; print(*[name in sys.modules for name in ('torch', 'timm', 'glmc.methods.glmc')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["set()", "True False False"]


def test_the_losses_work_alone_on_any_features():
    """On the [B, C] logits of anything, in any precision."""
    counts = torch.tensor([50, 10, 2])
    logits = torch.randn(4, 3, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.25, 0.25]])
    features, progress = torch.randn(4, 7), torch.tensor(0.5)
    losses = [
        glmc.ClassWeighted(counts, exponent=1.0)(logits, targets, progress),
        glmc.BalancedSoftmax(counts)(logits, targets, progress),
        glmc.SoftmaxBCE(counts, exponent=0.5)(logits, targets.argmax(1), progress),
        glmc.negative_cosine(features, features),
    ]
    assert all(loss.dtype == torch.float32 and loss.shape == () and loss.isfinite() for loss in losses)
    assert losses[3].item() == pytest.approx(-1)
    sum(losses).backward()
    assert logits.grad.isfinite().all()
