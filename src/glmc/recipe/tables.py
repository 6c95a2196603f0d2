"""The tables of GLMC's documents, cell by cell, each with the command that runs it. Loads no torch."""

import shlex
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import yaml

from glmc.recipe.packaged import names

USUAL = 100  # the imbalance of the packaged recipes of long-tailed CIFAR


class Cell(NamedTuple):
    """A figure of `tables.yaml`, and what is known of it."""

    table: str  # title, and the document
    row: str
    column: str
    figure: float  # accuracy in percent; top-1 unless the column is a group of classes
    network: str | None  # as printed; None: not printed
    system: str
    data: str  # folder of recipes
    imbalance: int | None
    recipe: str
    overrides: tuple[str, ...]
    note: str | None  # misprints, and in what the recipe differs from what the figure was found with

    @property
    def command(self) -> str:
        """What is typed to run it."""
        return shlex.join(["glmc", "train", self.recipe, *self.overrides])

    def told(self) -> dict[str, Any]:
        """What `glmc list systems --json` has of it."""
        told = ("table", "row", "column", "figure", "network", "command", "note")
        return {key: getattr(self, key) for key in told}


@cache
def cells() -> tuple[Cell, ...]:
    """Every cell that is not a dash, in the order of the file."""
    tables = yaml.safe_load((files("glmc") / "tables.yaml").read_text(encoding="utf-8"))
    written = set(names())
    return tuple(cell for table in tables for row in table["rows"] for cell in _across(table, row, written))


def _across(table: dict[str, Any], row: dict[str, Any], written: set[str]) -> Iterator[Cell]:
    """The cells of a row. A recipe of its own for an imbalance is called so, e.g. glmc_published_if50."""
    for (column, below), figure in zip(table["columns"].items(), row["figures"], strict=True):
        if figure is None:
            continue
        said = table | below | row
        recipe, overrides = f"{said['data']}/{said.get('recipe', said['system'])}", list(said.get("values", ()))
        imbalance = said.get("imbalance")
        if f"{recipe}_if{imbalance}" in written:
            recipe += f"_if{imbalance}"
        elif imbalance not in (None, USUAL):
            overrides.insert(0, f"data.imbalance={imbalance}")
        notes = [note for note in (row.get("notes", {}).get(column), said.get("note")) if note]
        yield Cell(
            table=f"{table['title']} ({table['source']})",
            row=row["label"],
            column=column,
            figure=float(figure),
            network=said.get("network"),
            system=said["system"],
            data=said["data"],
            imbalance=imbalance,
            recipe=recipe,
            overrides=tuple(overrides),
            note="; ".join(notes) or None,
        )
