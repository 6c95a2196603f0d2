"""Commands that show what there is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from glmc.cli import app, complete
from glmc.cli.words import AsJson, Overrides, Quiet
from glmc.errors import UserError, printable


@app.command()
def show(
    recipe_name: Annotated[str, typer.Argument(metavar="RECIPE", show_default=False, autocompletion=complete.recipes)],
    overrides: Overrides = None,
    keys: Annotated[
        bool, typer.Option("--keys", help="Instead: what each key means, what it may be, its default.")
    ] = False,
) -> None:
    """Print a recipe complete with every default, and what its data are: all but running it."""
    import inspect

    from glmc import recipe
    from glmc.data import parts
    from glmc.recipe.document import shown

    wanted = recipe.load(recipe_name, tuple(overrides or ()))
    if recipe.changed(overrides or ()):
        wanted = wanted.override("expect=null", "published=null")
    if keys:
        for key, value in recipe.explained(wanted):
            default = "needed" if key.default is inspect.Parameter.empty else f"default {shown(key.default)}"
            print(f"{key.name}={shown(value)}  ({key.kind}; {default})\n    {key.meaning}")
        return
    print(wanted.to_yaml(), end="")
    try:
        source = parts.find(wanted.data.model_copy(update={"download": False}))
        train, val = parts.long_tailed(source, wanted.data)
    except UserError as error:
        print(f"# data: {printable(str(error))}")
        return
    counts, held = train.counts, f"{len(val):,} validation, " if val else ""
    print(f"# data: {len(train):,} training, {held}{len(source.test):,} test images of {len(counts)} classes")
    print(f"# training images a class: {' '.join(map(str, counts.tolist()))}")
    print(f"# steps: {-(-len(train) // wanted.data.batch_size)} an epoch, {wanted.train.epochs} epochs")


@app.command("report")
def report_(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="File: .html, .md or .csv. Default: report.html in the one RUN, or comparison.html here."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write a run's report again, or compare runs and folders of seeds: table, curves, what is more than noise."""
    from glmc.report import compare
    from glmc.screen import Screen

    screen = Screen(quiet=quiet)
    screen.say(str(compare.write(runs, out, screen)))


@app.command()
def stats(
    data: Annotated[str, typer.Argument(metavar="DATA", show_default=False)],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write a page (.html) or a picture of the class sizes (.png).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a folder, list or named set of images is like, and which recipe to start from."""
    from glmc import stats as room

    room.stats(data, tuple(overrides or ()), out, as_text=not as_json)


@app.command("make-lt")
def make_lt(
    data: Annotated[str, typer.Argument(metavar="DATA", show_default=False)],
    imbalance: Annotated[
        float, typer.Option(help="Images of the largest class / of the smallest.", show_default=False)
    ],
    overrides: Overrides = None,
    profile: Annotated[str, typer.Option(help="exponential, or step.")] = "exponential",
    split: Annotated[
        str, typer.Option(help="Which images stay: cao (Cao et al. 2019) or du (Du et al. 2023).")
    ] = "cao",
    n_max: Annotated[int | None, typer.Option(help="Images of the largest class. Default: all it has.")] = None,
    order: Annotated[str, typer.Option(help="Classes from large to small: given, or the seed of an order.")] = "given",
    out: Annotated[Path | None, typer.Option(help="List to write, .txt or .csv. Default: named after DATA.")] = None,
    quiet: Quiet = False,
) -> None:
    """Write a long-tailed list of training images out of a balanced folder or list."""
    from glmc.stats import make_lt as room

    room.make_lt(
        data,
        tuple(overrides or ()),
        imbalance=imbalance,
        profile=profile,
        split=split,
        n_max=n_max,
        order=order,
        out=out,
        quiet=quiet,
    )


@app.command("list")
def list_(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="systems, recipes, methods, losses, mixtures, stages, datasets, backbones.",
            show_default=False,
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Name what there is to choose from."""
    listings: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "systems": systems,
        "recipes": recipes,
        "methods": lambda: factors("method"),
        "losses": lambda: factors("loss"),
        "mixtures": lambda: factors("mixture"),
        "stages": stages,
        "datasets": datasets,
        "backbones": backbones,
    }
    if what not in listings:
        raise UserError(f"{what!r}: choose one of {', '.join(listings)}")
    rows = listings[what]()
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        name, *rest = row.values()
        print(name, *(f"  {value}" for value in rest if value and isinstance(value, str)), sep="")


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete it all.")] = False, as_json: AsJson = False
) -> None:
    """Show, or clear, the cache of decoded images."""
    from glmc.data import cache

    if clear:
        print(f"{cache.clear_cache() / 2**20:.1f} MiB freed")
        return
    entries = cache.cache_entries()
    if as_json:
        print(json.dumps([entry._asdict() for entry in entries], indent=1, default=str))
        return
    for entry in entries:
        print(f"{entry.bytes / 2**20:9.1f} MiB  {entry.date}  {printable(entry.root)}")
    print(f"{sum(entry.bytes for entry in entries) / 2**20:9.1f} MiB in {cache.cache_folder()}")


def systems() -> list[dict[str, Any]]:
    """What the literature compares: name, sentence, command and paper; with --json also recipes and figures."""
    from glmc.recipe.systems import systems as listed

    return [system._asdict() for system in listed()]


def recipes() -> list[dict[str, Any]]:
    """Name and first line of every packaged recipe."""
    from glmc.recipe import packaged

    return [{"name": name, "about": packaged.headline(name)} for name in packaged.names()]


def factors(section: str) -> list[dict[str, Any]]:
    """Name, settings and first line of every method, loss or mixture."""
    import inspect

    from glmc.recipe import choice
    from glmc.recipe.document import shown

    return [
        {
            "name": name,
            "settings": " ".join(f"{key}={shown(value)}" for key, (_, value) in choice.settings(section, name).items()),
            "about": (inspect.getdoc(choice.class_of(section, name)) or "").partition("\n")[0],
        }
        for name in choice.TABLES[section]
    ]


def stages() -> list[dict[str, Any]]:
    """Name, settings and source of every second stage."""
    from glmc.train import stages as room

    return room.listed()


def datasets() -> list[dict[str, Any]]:
    """Name and description of every source of images."""
    from glmc.data.sources import SOURCES

    return [{"name": name, "about": (load.__doc__ or "").partition("\n")[0]} for name, load in SOURCES.items()]


def backbones() -> list[dict[str, Any]]:
    """Our small-image networks, then every name of timm's."""
    import timm

    from glmc.models import SMALL_IMAGE

    return [{"name": name, "from": "glmc"} for name in SMALL_IMAGE] + [
        {"name": name, "from": "timm"} for name in timm.list_models()
    ]
