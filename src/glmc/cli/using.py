"""Commands that put a trained network to use."""

import json
from pathlib import Path
from typing import Annotated

import typer

from glmc.cli import app
from glmc.cli.words import AsJson, Overrides, Quiet, RunReference
from glmc.errors import UserError


@app.command()
def predict(
    run: RunReference,
    words: Annotated[list[str], typer.Argument(metavar="PATH... [KEY=VALUE]...", show_default=False)],
    top: Annotated[int, typer.Option(min=1, help="Classes to name for each image, at most.")] = 5,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write a new CSV file, a row an image.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print an object a line as soon as it is known.")] = False,
    sort_into: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Copy each image into a folder of its class; nothing is moved.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a new page of thumbnails (.html), least certain first.")
    ] = None,
    prior: Annotated[
        str | None,
        typer.Option(metavar="uniform|training|FILE", help="Class frequencies of the images; FILE: class,count lines."),
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Average with mirrored images.")] = False,
    unknown: Annotated[
        str | None,
        typer.Option(metavar="error=E|coverage=C", help="Say unknown so that at most E of the answers are wrong."),
    ] = None,
    sets: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Sets of classes that hold the true one so often, e.g. 0.9.")
    ] = None,
) -> None:
    """Name the classes of images: files, folders, patterns, or - for a list of paths on stdin."""
    from glmc.deploy import hub
    from glmc.inference import predict as room

    paths, overrides = room.split_words(words)
    room.predict(
        hub.resolve(run),
        paths,
        overrides,
        top=top,
        csv_file=csv_file,
        as_json=as_json,
        sorted_into=sort_into,
        sheet_file=sheet,
        prior=prior,
        flip=flip,
        unknown=unknown,
        sets=sets,
    )


@app.command()
def calibrate(
    run: Annotated[Path, typer.Argument(metavar="RUN", show_default=False, help="Run folder.")],
    overrides: Overrides = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER|LIST", help="Images that the run has not seen. Default: its validation images."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a run's probabilities mean what they say: a temperature for glmc predict, from held-out images."""
    if str(run).startswith("hf:"):
        raise UserError(
            f"glmc calibrate {run}: the calibration is written into the run folder; give one on this machine"
        )
    from glmc.inference import calibrate as room

    result = room.calibrate(run, tuple(overrides or ()), images=images, quiet=as_json)
    if as_json:
        print(json.dumps({key: value for key, value in result.items() if key != "held_out"}, indent=1))


@app.command()
def labels(
    runs: Annotated[
        Path, typer.Argument(metavar="RUNS", show_default=False, help="Folder that glmc train --folds has made.")
    ],
    overrides: Overrides = None,
    quiet: Quiet = False,
) -> None:
    """List the labels that a cross-validation contradicts most, to look at and to correct: labels.html, labels.csv."""
    from glmc.inference import labels as room

    room.labels(runs, tuple(overrides or ()), quiet=quiet)


@app.command()
def export(
    run: RunReference,
    kind: Annotated[
        str,
        typer.Option(
            "--format", help="onnx, torch-export, safetensors, timm; published: a .pth.tar for the published GLMC code."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder (published: file) to write. Default: in the run folder.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write a trained network for other programs."""
    if kind == "published":
        from glmc.deploy import hub
        from glmc.published import exchange

        print(exchange.export(hub.resolve(run), out))
        return
    from glmc.deploy import export as deploy

    deploy.export(run, kind, out, quiet=quiet)


@app.command()
def push(
    run: RunReference,
    name: Annotated[str, typer.Argument(metavar="USER/NAME", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="Only you may see it.")] = False,
    token: Annotated[
        str | None, typer.Option(help="With the right to write. Default: of `hf auth login` or HF_TOKEN.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Upload a run to the Hugging Face hub, where it is hf:user/name."""
    from glmc.deploy import push as uploading

    uploading.push(run, name, private=private, token=token, quiet=quiet)
