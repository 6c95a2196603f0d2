"""What the Tab key offers: recipes, keys of recipes, and the values that a key may have. Loads no torch."""

from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from glmc.recipe import Key


def words(context: typer.Context, incomplete: str) -> list[str]:
    """For `[RECIPE] [KEY=VALUE]...`: recipes, as long as there is no word, and assignments."""
    return [*([] if context.params.get("words") else recipes(incomplete)), *assignments(context, incomplete)]


def recipes(incomplete: str) -> list[str]:
    """The package's recipes, and recipe files."""
    from glmc import recipe

    files = sorted(str(file) for file in Path().glob("*.yaml"))
    return [name for name in (*recipe.names(), *recipe.composable(), *files) if name.startswith(incomplete)]


def systems(incomplete: str) -> list[str]:
    """For names between commas: the system that is being typed."""
    from glmc.recipe.systems import rows

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in rows() if name.startswith(last) and name not in before.split(",")]


def assignments(context: typer.Context, incomplete: str) -> list[str]:
    """Keys with "=" behind them; a key that is the only one left, with the values that it may have.

    Bash takes "=" for a word of its own and wants to know what follows it; other shells want the whole assignment.
    """
    from glmc import recipe

    keys = {key.name: key for key in recipe.describe()}
    typed = [word for word in context.params.get("words") or context.params.get("overrides") or () if word != "="]
    if typed and typed[-1] in keys:
        return [value for value in values(keys[typed[-1]]) if value.startswith(incomplete)]
    name, equals, _ = incomplete.partition("=")
    left = [key for key in keys if (key == name if equals else key.startswith(name))]
    offered = [f"{left[0]}={value}" for value in values(keys[left[0]])] if len(left) == 1 else [f"{k}=" for k in left]
    return [word for word in offered if word.startswith(incomplete)]


def values(key: "Key") -> list[str]:
    """What a key may be, where that can be listed; else its default."""
    from glmc.recipe.choice import TABLES
    from glmc.recipe.document import shown

    section, _, name = key.name.partition(".")
    if name == "name" and section in TABLES:
        return list(TABLES[section])
    if key.name == "data.name":
        from glmc.data.sources import SOURCES

        return list(SOURCES)
    default = () if key.default is Parameter.empty else (key.default,)
    return [shown(value).strip('"') for value in key.choices or default]
