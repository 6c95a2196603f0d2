"""The recipes that come with the package. Loads no torch."""

from importlib.resources import files

from glmc.recipe.document import head

RECIPES = files("glmc") / "recipes"


def names() -> list[str]:
    """The recipes of the package, sorted: "<dataset>/<method>"."""
    folders = [folder for folder in RECIPES.iterdir() if folder.is_dir()]
    found = [(folder.name, file.name) for folder in folders for file in folder.iterdir()]
    return sorted(f"{folder}/{file.removesuffix('.yaml')}" for folder, file in found if file.endswith(".yaml"))


def text_of(name: str) -> str:
    """The YAML of one of `names()`."""
    return RECIPES.joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def headline(name: str) -> str:
    """The first line of a packaged recipe: what it is."""
    return head(text_of(name)).partition("\n")[0]
