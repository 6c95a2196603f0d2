"""Commands that look for what is wrong: with the machine, and with the images."""

import json
from typing import Annotated

import typer

from glmc.cli import app
from glmc.cli.words import AsJson, Overrides

data = typer.Typer(help="Whether images can be trusted: see glmc data verify.", no_args_is_help=True)
app.add_typer(data, name="data")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what of this machine makes a run slow, why, and what to do about it."""
    from glmc.screen import Screen
    from glmc.train import doctor as room

    findings = room.doctor(Screen(quiet=as_json))
    if as_json:
        print(json.dumps([finding._asdict() for finding in findings], indent=1))


@data.command()
def verify(
    data: Annotated[str, typer.Argument(metavar="DATA", show_default=False)],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Decode every image once; name those that cannot be read and those in training and test set; count the classes."""
    from glmc.stats import verify as room

    room.verify(data, tuple(overrides or ()), as_text=not as_json)
