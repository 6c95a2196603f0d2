"""Who may import whom: the picture in the README, held against the imports."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "glmc"

# From the roof to the ground, as in the README: a room may enter itself and every room below it.
FLOORS = (
    "__main__", "cli", "published", "deploy", "inference", "train", "stats", "report", "trackers", "runs", "batches",
    "data", "recipe", "methods", "losses", "mixtures", "models", "step", "random", "posthoc", "runtime", "ranks",
    "screen", "metrics", "trust", "errors", "__init__",
)  # fmt: skip
# What can be taken into anybody's loop: it needs tensors, and no more of the package than these.
ALONE = {
    "losses": {"losses"},
    "mixtures": {"mixtures", "random", "ranks", "step"},
    "step": set(),
    "random": set(),
    "posthoc": set(),
}
WITHOUT_TORCH = (
    "recipe",
    "report",
    "trackers",
    "errors",
    "metrics",
    "screen",
    "trust",
    "runs/files.py",
    "runs/result.py",
)


def entered(file: Path) -> list[str]:
    """The rooms a file imports from."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "glmc":
            names = [alias.name for alias in node.names]
            found += [
                name if (SOURCE / name).is_dir() or (SOURCE / f"{name}.py").exists() else "__init__" for name in names
            ]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("glmc."):
            found.append(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found += [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("glmc.")]
    return found


def room_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


FILES = [file for file in sorted(SOURCE.rglob("*.py")) if room_of(file) != "__init__"]  # which hands names on, lazily


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_a_file_enters_only_rooms_below_its_own(file):
    room = room_of(file)
    allowed = ALONE.get(room, set(FLOORS[FLOORS.index(room) :]))
    assert not set(entered(file)) - allowed, f"{file.name} in {room} may enter {sorted(allowed)}"


def test_every_room_is_in_the_picture_and_in_the_readme_in_this_order():
    there = {room_of(file) for file in SOURCE.rglob("*.py")}
    assert there == set(FLOORS)
    told = (SOURCE.parent.parent / "README.md").read_text().partition("## Where everything lives")[2]
    places = [told.index(f"\n  {room}") for room in FLOORS if room != "__init__"]
    assert places == sorted(places)


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_what_reads_files_does_not_load_torch(room):
    place = SOURCE / room if (SOURCE / room).exists() else SOURCE / f"{room}.py"
    for file in place.rglob("*.py") if place.is_dir() else [place]:
        for node in ast.parse(file.read_text()).body:  # imports inside functions are deliberate
            if isinstance(node, ast.Import):
                assert not any(alias.name.split(".")[0] in ("torch", "timm", "torchvision") for alias in node.names)
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in ("torch", "timm", "torchvision")


def test_no_training_waits_for_matplotlib_when_it_starts():
    """A bench, which makes several runs and draws them, may."""
    for file in set((SOURCE / "train").glob("*.py")) - {SOURCE / "train/bench.py"}:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ImportFrom):
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                assert not any(name.startswith("glmc.report") for name in whole), file
