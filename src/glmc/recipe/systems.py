"""The systems that the literature compares, and how each is run on any data set. Loads no torch.

A system is what is done, whatever the images: method, loss, mixture, experts and second stage. `onto` takes these from
a recipe of the system and everything else from the recipe `<data set>/ce`: images, crops, network, optimizer, schedule.
"""

from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import yaml

from glmc.recipe.document import Document, read
from glmc.recipe.packaged import names, text_of
from glmc.recipe.tables import cells

SOURCE = "cifar100_lt"  # the data set for which every system has a recipe
FACTORS = ("method", "loss", "mixture")  # sections and keys of a recipe that make its system
NETWORK = ("experts", "experts_from", "batch_norm")  # keys of `model` that do
COLOURS = {"color_jitter", "grayscale", "blur"}  # a contrast needs them; other operations are the images'


class System(NamedTuple):
    """A row of `systems.yaml`, with what the package's recipes and the documents' tables say of it."""

    system: str
    what: str  # in a sentence
    command: str  # on CIFAR-100-LT; folder/<system> takes a folder of images
    paper: str
    stages: list[str]  # that come after the first, see `glmc list stages`; empty: there is one only
    recipes: list[dict[str, Any]]  # name; published: top1, network, source; expect: ours
    cells: list[dict[str, Any]]  # of the documents' tables: figure, network, command, ...; see `glmc.recipe.tables`


def systems() -> list[System]:
    """Every system, in the order of the file."""
    return [
        System(
            name,
            row["what"],
            f"glmc train {SOURCE}/{name}",
            row["paper"],
            later_stages(name),
            listed(name, row),
            [cell.told() for cell in cells() if cell.system == name],
        )
        for name, row in rows().items()
    ]


@cache
def rows() -> dict[str, dict[str, Any]]:
    """`systems.yaml`."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((files("glmc") / "systems.yaml").read_text(encoding="utf-8"))
    return found


def source_of(system: str) -> str:
    """The packaged recipe that a system takes its method, loss and mixture from."""
    own = f"{SOURCE}/{rows()[system].get('recipe', system)}"
    return own if own in names() else f"{SOURCE}/ce"


def later_stages(system: str) -> list[str]:
    """The stages after the first, each perhaps with values of its own."""
    then = rows()[system].get("stage") or packaged(source_of(system)).get("then") or []
    return [then] if isinstance(then, str) else then


def listed(name: str, row: dict[str, Any]) -> list[dict[str, Any]]:
    """Names of a system's packaged recipes, and the results that stand in them."""
    stems = {name, *row.get("recipes", ())}
    own = [recipe for recipe in names() if recipe.partition("/")[2].partition("_if")[0] in stems]
    return [{"name": recipe, **figures(packaged(recipe))} for recipe in own]


def figures(tree: dict[str, Any]) -> dict[str, Any]:
    """What a recipe says of results, its own and published ones."""
    return {key: tree[key] for key in ("published", "expect") if tree.get(key)}


def packaged(recipe: str) -> dict[str, Any]:
    """The plain values of a packaged recipe."""
    tree: dict[str, Any] = read(text_of(recipe), recipe).tree
    return tree


def composable() -> list[str]:
    """Every "<data set>/<system>" for which no recipe was written, but one can be put together."""
    written = names()
    sets = [name.removesuffix("/ce") for name in written if name.endswith("/ce")]
    return [name for data in sets for system in rows() if (name := f"{data}/{system}") not in written]


def onto(base: str, system: str) -> tuple[Document, str]:
    """A recipe put together, and the comment at its head: a system carried out on the images of another recipe.

    Every view is cropped and mirrored as in the base; those of a contrast keep their colours, and the system's own
    augmentation comes last. Published results are left out: the recipe is not the one that they were found with.

    Args:
        base: packaged recipe of plain cross entropy, e.g. "folder/ce".
        system: a row of `systems.yaml`.
    """
    row, tree = rows()[system], packaged(base)
    name, source = f"{base.partition('/')[0]}/{system}", packaged(source_of(system))
    whole: dict[str, Any] = {"name": name, **tree, "published": None, "expect": None}
    whole |= {"loss": {"name": "cross_entropy"}, "mixture": {"name": "none"}}
    whole |= {key: source[key] for key in FACTORS if key in source}
    whole["model"] = tree["model"] | {key: source["model"][key] for key in NETWORK if key in source["model"]}
    whole["views"] = tree["views"] | {
        view: [*coloured(tree["views"]["train"], operations), *row.get("augment", [])]
        for view, operations in source["views"].items()
        if view != "test"
    }
    ours, theirs = (f"train.epochs={one['train']['epochs']}" for one in (tree, source))
    then = [stage.replace(theirs, ours) for stage in later_stages(system)]  # as long as the first one remains so
    whole["then"] = then[0] if len(then) == 1 else then or None
    document = Document(f"recipe {name}", whole)
    document.override(row.get("values", ()))
    document.places.clear()  # the user has not written these
    about = [f"{system} on the images of {base}: {row['what']}. {row['paper']}.", f"run     glmc train {name}"]
    about += [f"source  method, loss, mixture and stages: {source_of(system)}; the rest: {base}", "figure  none yet"]
    return document, "\n".join(about)


def coloured(views: list[Any], contrast: list[Any]) -> list[Any]:
    """Operations of one view with the colours of another, which replace its own of the same name."""
    colours = [op for op in contrast if isinstance(op, dict) and COLOURS & op.keys()]
    replaced = {name for op in colours for name in op}
    return [op for op in views if isinstance(op, str) or not replaced & op.keys()] + colours
