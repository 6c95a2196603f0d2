"""The command line. Torch is imported inside the commands that need it, so that help and mistakes answer at once."""

import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from glmc import __version__
from glmc.errors import UserError

STARTED = time.perf_counter()

app = typer.Typer(
    help="Long-tailed image classification: train, compare and trust the methods of the literature.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Words = Annotated[list[str] | None, typer.Argument(metavar="[RECIPE] [KEY=VALUE]...", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def print_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        print(f"glmc {__version__}")
        raise typer.Exit


@app.callback()
def glmc(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; works anywhere.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=print_version, help="Print the version and stop.")
    ] = False,
) -> None:
    """Long-tailed image classification: train, compare and trust the methods of the literature."""


@app.command()
def train(
    words: Words = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder, new or empty. Default: the next free one in runs/.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Several runs, e.g. 0,1,2, and their mean and deviation.")] = None,
    together: Annotated[
        int | None,
        typer.Option(min=1, help="Seeds to train side by side. Default: as many as fit on a GPU, elsewhere one."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train a recipe and say how good it is. Without a recipe: GLMC on scikit-learn's digits."""
    command = "glmc " + " ".join(map(shlex.quote, sys.argv[1:]))
    name, overrides = split_words(words)
    if resume is not None:
        if name is not None or out is not None or seeds is not None:
            raise UserError("--resume takes a run folder and stands without recipe, --out and --seeds")
        if (resume / "seeds.json").is_file() and not overrides:
            from glmc import seeds as several

            several.go_through(resume, together=together, command=command, quiet=quiet, since=STARTED)
            return
        from glmc import run

        run.resume(resume, overrides, command=command, quiet=quiet, since=STARTED)
        return
    from glmc import recipe

    keys = {assignment.partition("=")[0] for assignment in overrides}
    if name is None and "data.root" in keys and "data.name" not in keys:
        from glmc import own

        choice = own.choose()
        name = choice.recipe
        print(f"glmc train {name}: {choice.reason}", file=sys.stderr)
    wanted = recipe.load(name or "digits_lt/glmc", overrides)
    if changed(overrides):
        wanted = wanted.override("expect=null", "published=null")  # figures of another recipe from here on
    if seeds is None:
        if together is not None:
            raise UserError("--together is for several runs: add --seeds, e.g. --seeds 0,1,2")
        from glmc import run

        run.train(wanted, out, command=command, quiet=quiet, since=STARTED)
        return
    numbers = parse_seeds(seeds)
    from glmc import seeds as several

    several.train_seeds(wanted, numbers, out, together=together, command=command, quiet=quiet, since=STARTED)


@app.command()
def finetune(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", show_default=False)],
    stage2: Annotated[str, typer.Option(help="maxnorm, crt, lws, balanced_softmax; without training: tau_norm, ...")],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder, new or empty. Default: the next free one in runs/.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Carry out a second stage on a trained run: its classifier trained once more, or repaired."""
    command = "glmc " + " ".join(map(shlex.quote, sys.argv[1:]))
    from glmc import finetune as stages

    stages.finetune(run_folder, stage2, tuple(overrides or ()), out, command=command, quiet=quiet, since=STARTED)


@app.command()
def sweep(
    words: Words = None,
    seeds: Annotated[str, typer.Option(help="Seeds of each point, e.g. 0,1,2.")] = "0",
    out: Annotated[Path | None, typer.Option(help="Folder of the sweep; the same command goes on in it.")] = None,
    quiet: Quiet = False,
) -> None:
    """Run a grid: recipes between commas, key=v1,v2,... for each axis; writes CSV, Markdown and pictures."""
    command = "glmc " + " ".join(map(shlex.quote, sys.argv[1:]))
    name, assignments = split_words(words)
    if name is None:
        raise UserError("glmc sweep needs a recipe first, e.g. glmc sweep digits_lt/glmc method.contrast_weight=0,4")
    from glmc import recipe

    wanted = [recipe.load(one) for one in name.split(",")]
    from glmc import sweep as grid

    grid.sweep(wanted, assignments, parse_seeds(seeds), out, command=command, quiet=quiet, since=STARTED)


@app.command()
def test(
    run_or_checkpoint: Annotated[Path, typer.Argument(show_default=False)],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a run's last checkpoint, one checkpoint, or a published .pth.tar, on the test images."""
    if run_or_checkpoint.is_file():
        from glmc import exchange

        result = exchange.test_published(run_or_checkpoint, tuple(overrides or ()), quiet=as_json)
    else:
        from glmc import run

        result = run.test(run_or_checkpoint, tuple(overrides or ()), quiet=as_json)
    if as_json:
        print(json.dumps(result, indent=1))


@app.command()
def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", show_default=False)],
    kind: Annotated[str, typer.Option("--format", help="published: a .pth.tar for the published GLMC code.")],
    out: Annotated[Path | None, typer.Option(help="File to write. Default: in the run folder.")] = None,
) -> None:
    """Write a trained network for other programs."""
    if kind != "published":
        raise UserError(f"--format {kind}: choose published")
    from glmc import exchange

    print(exchange.export(run_folder, out))


@app.command()
def show(
    recipe_name: Annotated[str, typer.Argument(metavar="RECIPE", show_default=False)],
    overrides: Overrides = None,
) -> None:
    """Print a recipe complete with every default, and what its data are: all but running it."""
    from glmc import prepare, recipe

    wanted = recipe.load(recipe_name, tuple(overrides or ()))
    if changed(overrides):
        wanted = wanted.override("expect=null", "published=null")
    print(wanted.to_yaml(), end="")
    try:
        source = prepare.find(wanted.data.model_copy(update={"download": False}))
        train, val = prepare.long_tailed(source, wanted.data)
    except UserError as error:
        print(f"# data: {error}")
        return
    counts, held = train.counts, f"{len(val):,} validation, " if val else ""
    print(f"# data: {len(train):,} training, {held}{len(source.test):,} test images of {len(counts)} classes")
    print(f"# training images a class: {' '.join(map(str, counts.tolist()))}")
    print(f"# steps: {-(-len(train) // wanted.data.batch_size)} an epoch, {wanted.train.epochs} epochs")


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(metavar="recipes|methods|datasets|backbones", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Name what there is to choose from."""
    listings = {"recipes": recipes, "methods": methods, "datasets": datasets, "backbones": backbones}
    if what not in listings:
        raise UserError(f"{what!r}: choose one of {', '.join(listings)}")
    rows = listings[what]()
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        name, *rest = row.values()
        print(name, *(f"  {value}" for value in rest if value), sep="")


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete it all.")] = False, as_json: AsJson = False
) -> None:
    """Show, or clear, the cache of decoded images."""
    from glmc.data import decode

    if clear:
        print(f"{decode.clear_cache() / 2**20:.1f} MiB freed")
        return
    entries = decode.cache_entries()
    if as_json:
        print(json.dumps([entry._asdict() for entry in entries], indent=1, default=str))
        return
    for entry in entries:
        print(f"{entry.bytes / 2**20:9.1f} MiB  {entry.date}  {entry.root}")
    print(f"{sum(entry.bytes for entry in entries) / 2**20:9.1f} MiB in {decode.cache_folder()}")


def recipes() -> list[dict[str, Any]]:
    """Name and first line of every packaged recipe."""
    from glmc import recipe

    return [{"name": name, "about": recipe.load(name, ()).about.partition("\n")[0]} for name in recipe.names()]


def methods() -> list[dict[str, Any]]:
    """Name and settings of every method."""
    from glmc import recipe
    from glmc.methods import METHODS

    return [
        {"name": name, "settings": " ".join(f"{k}={v}" for k, (_, v) in recipe.method_parameters(name).items())}
        for name in METHODS
    ]


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


def split_words(words: list[str] | None) -> tuple[str | None, tuple[str, ...]]:
    """A recipe's name, if the first word is no assignment, and the assignments."""
    words = list(words or ())
    name = words.pop(0) if words and "=" not in words[0] else None
    for word in words:
        if "=" not in word:
            raise UserError(f"{word!r} is neither the first word, which names the recipe, nor key=value")
    return name, tuple(words)


def changed(overrides: Sequence[str] | None) -> bool:
    """Whether assignments make another recipe, whose figures need not be those of the named one."""
    from glmc.recipe import HARMLESS

    return any(assignment.partition("=")[0] not in {"train.seed", *HARMLESS} for assignment in overrides or ())


def parse_seeds(text: str) -> list[int]:
    """Different whole numbers between commas."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or len(set(numbers)) < len(numbers):
        raise UserError(f"--seeds {text}: give different whole numbers between commas, e.g. 0,1,2")
    return numbers
