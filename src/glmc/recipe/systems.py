"""The systems that the literature compares, and how each is run here. Loads no torch."""

from importlib.resources import files
from typing import Any, NamedTuple

import yaml

from glmc.recipe import RECIPES, names


class System(NamedTuple):
    """A row of `systems.yaml`, with what the package's recipes say of it."""

    system: str
    what: str  # in a sentence
    command: str  # of its first recipe, of its values, or of its stage
    paper: str
    recipes: list[dict[str, Any]]  # name; published: top1, network, source; expect: ours


def systems() -> list[System]:
    """Every system, in the order of the file."""
    rows: dict[str, dict[str, Any]] = yaml.safe_load((files("glmc") / "systems.yaml").read_text(encoding="utf-8"))
    return [system(name, **row) for name, row in rows.items()]


def system(
    name: str, what: str, paper: str, recipes: tuple[str, ...] = (), values: str | None = None, stage: str | None = None
) -> System:
    """A system from its row; the arguments are the keys of `systems.yaml`."""
    own = [recipe for recipe in names() if recipe.partition("/")[2].partition("_if")[0] in {name, *recipes}]
    command = f"glmc train {own[0]}" if own else f"glmc train cifar100_lt/ce {values}"
    return System(name, what, f"glmc finetune RUN --stage2 {stage}" if stage else command, paper, list(map(facts, own)))


def facts(recipe: str) -> dict[str, Any]:
    """Name of a packaged recipe, and the results that stand in it."""
    tree = yaml.safe_load(RECIPES.joinpath(f"{recipe}.yaml").read_text(encoding="utf-8"))
    return {"name": recipe, **{key: tree[key] for key in ("published", "expect") if tree.get(key)}}
