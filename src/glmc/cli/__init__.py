"""The command line. Torch is imported inside the commands that need it, so that help and mistakes answer at once.

`training` holds the commands that train and evaluate, `looking` those that show what there is, `checking` those that
look for what is wrong, `using` those that put a trained network to use.
"""

import importlib
import time
from pathlib import Path
from typing import Annotated

import typer

from glmc import __version__

STARTED = time.perf_counter()

app = typer.Typer(
    help="Long-tailed image classification: train, compare and trust the methods of the literature.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def print_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        print(f"glmc {__version__}")
        raise typer.Exit


@app.callback()
def glmc(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; works anywhere.")] = False,
    code: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of your own methods, losses, mixtures; works anywhere.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the code that a recipe or run names; works anywhere.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=print_version, help="Print the version and stop.")
    ] = False,
) -> None:
    """Long-tailed image classification: train, compare and trust the methods of the literature."""


for _room in ("training", "looking", "checking", "using"):  # the order of `glmc --help`
    importlib.import_module(f"glmc.cli.{_room}")
