"""Who may import whom: the picture in the README, held against the imports."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "glmc"

# Each room and the rooms it may enter. A room that may enter another may not be entered by it.
MAY_IMPORT = {
    "errors": set(),
    "random": set(),
    "schedule": set(),
    "mixing": set(),
    "posthoc": set(),
    "losses": {"losses"},
    "metrics": {"errors"},
    "checkpoint": {"errors"},
    "document": {"errors"},
    "sections": {"document"},
    "complaints": {"document", "sections"},
    "recipe": {"complaints", "document", "errors", "methods.parameters", "sections"},
    "resize": set(),
    "augment": {"random", "resize"},
    "screen": set(),
    "data": {"errors", "random", "augment", "resize", "data"},
    "models": {"errors", "models"},
    "methods": {
        "data.resident", "errors", "losses", "methods", "methods.parameters", "mixing", "models", "posthoc", "random",
    },
    "runtime": {"errors", "__init__"},
    "graph": set(),
    "engine": {"augment", "data", "errors", "methods", "metrics", "random", "runtime"},
    "report": {"errors", "metrics", "report", "screen"},
    "prepare": {"data", "errors", "random", "recipe", "screen"},
    "build": {
        "augment", "data", "engine", "errors", "graph", "methods", "metrics", "models", "prepare", "random", "recipe",
        "checkpoint", "runtime", "schedule", "screen",
    },
    "folder": {"build", "checkpoint", "engine", "errors", "methods", "recipe", "screen"},
    "saving": {"build", "checkpoint", "engine", "errors"},
    "seeds": {"checkpoint", "folder", "recipe", "report", "run", "runtime", "screen"},
    "finetune": {
        "build", "checkpoint", "engine", "errors", "folder", "metrics", "posthoc", "recipe", "run", "runtime", "screen",
    },
    "sweep": {"checkpoint", "errors", "folder", "recipe", "report", "run", "screen"},
    "run": {
        "build", "checkpoint", "data.decode", "data.resident", "data.split", "engine", "errors", "folder", "metrics",
        "prepare", "recipe", "report", "runtime", "saving", "screen", "trackers",
    },
    "inference": {
        "build", "checkpoint", "data", "engine", "errors", "inference", "metrics", "prepare", "random", "recipe", "run",
        "screen",
    },
    "deploy": {
        "__init__", "augment", "build", "checkpoint", "deploy", "errors", "inference", "methods", "metrics", "models",
        "prepare", "random", "recipe", "run", "runtime", "screen",
    },
    "stats": {"data", "errors", "metrics", "prepare", "recipe", "report", "screen", "stats"},
    "own": {"models.weights", "recipe"},
    "make_lt": {"data", "errors", "metrics", "prepare", "screen", "stats"},
    "__main__": {"cli", "errors"},
    "flags": {"errors"},
    "legacy": {"__main__", "document", "errors", "flags", "prepare", "recipe"},
    "trackers": {"checkpoint", "errors", "trackers"},
    "__init__": {"data.resident", "losses", "methods", "mixing", "models", "posthoc"},  # once a name is asked for
    "cli": {
        "__init__", "cli", "data", "deploy", "errors", "finetune", "inference", "make_lt", "methods", "models", "own",
        "prepare", "recipe", "report", "run", "screen", "seeds", "stats", "sweep",
    },
}  # fmt: skip


def rooms(file: Path) -> list[str]:
    """The rooms a file imports from, e.g. "losses" or "data.resident"."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "glmc":
            found += [
                alias.name if (SOURCE / alias.name).exists() or (SOURCE / f"{alias.name}.py").exists() else "__init__"
                for alias in node.names
            ]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("glmc."):
            found.append(node.module.removeprefix("glmc."))
        elif isinstance(node, ast.Import):
            found += [alias.name.removeprefix("glmc.") for alias in node.names if alias.name.startswith("glmc.")]
    return found


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCE)))
def test_a_file_enters_only_the_rooms_its_own_may_enter(file):
    room = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    for entered in rooms(file):
        allowed = {entered, entered.partition(".")[0]} & MAY_IMPORT[room]
        assert allowed, f"{file.name} imports glmc.{entered}; {room} may enter {sorted(MAY_IMPORT[room])}"


def test_every_room_is_in_the_picture():
    there = {path.name.removesuffix(".py") for path in SOURCE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert there - {"recipes", "stages", "templates", "__pycache__"} == set(MAY_IMPORT)


@pytest.mark.parametrize("name", ["losses", "mixing", "random", "schedule"])
def test_the_heart_stands_alone(name):
    """A loss or a mixture can be taken into anybody's loop: it needs nothing else of the package."""
    files = [SOURCE / f"{name}.py"] if (SOURCE / f"{name}.py").exists() else list((SOURCE / name).glob("*.py"))
    for file in files:
        assert all(entered.partition(".")[0] == name for entered in rooms(file))
