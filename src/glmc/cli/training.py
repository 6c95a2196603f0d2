"""Commands that train and evaluate."""

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from glmc.cli import STARTED, app, complete
from glmc.cli.words import AsJson, Images, Overrides, Quiet, RunReference, Words, parse_seeds, split_words
from glmc.errors import UserError


@app.command(context_settings={"ignore_unknown_options": True})  # `split_words` knows what was meant
def train(
    words: Words = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder, new or empty. Default: the next free one in runs/.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Several runs, e.g. 0,1,2, and their mean and deviation.")] = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Cross-validation: as many runs, in which each image is tested on once.")
    ] = None,
    together: Annotated[
        int | None,
        typer.Option(min=1, help="Runs to train side by side. Default: as many as fit on a GPU, elsewhere one."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="How long the run may take here; sets train.epochs.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train a recipe, or what suits a folder of images, and say how good it is. Alone: GLMC on handwritten digits."""
    command = "glmc " + " ".join(map(shlex.quote, sys.argv[1:]))
    name, overrides = split_words(words)
    if seeds is not None and folds is not None:
        raise UserError("--seeds and --folds cannot be combined: leave one of them out")
    if minutes is not None and (resume is not None or seeds is not None or folds is not None):
        raise UserError("--minutes is for one new run: leave it out, and set train.epochs where several are trained")
    if minutes is not None and any(word.startswith("train.epochs=") for word in overrides):
        raise UserError(f"--minutes {minutes:g} sets train.epochs, which is given, too: keep one of them")
    if resume is not None:
        if name is not None or out is not None or seeds is not None or folds is not None:
            raise UserError("--resume takes a run folder, and no recipe, --out, --seeds or --folds")
        if (resume / "seeds.json").is_file():
            if overrides:
                raise UserError(f"{overrides[0]}: several runs are resumed as they were; name one of their folders")
            from glmc.train import seeds as several

            several.resume(resume, together=together, command=command, quiet=quiet, since=STARTED)
            return
        from glmc.train import run, stages

        run.resume(resume, overrides, command=command, quiet=quiet, since=STARTED)
        stages.go_on(resume, command=command, quiet=quiet, since=time.perf_counter())
        return
    from glmc import recipe

    name, overrides = for_own_images(name, overrides, quiet, folded=folds is not None)
    wanted = recipe.load(name or "digits_lt/glmc", overrides)
    if (remark := recipe.on_batch_size(name or "digits_lt/glmc", overrides)) and not quiet:
        print(remark)
    if recipe.changed(overrides):
        wanted = wanted.override("expect=null", "published=null")  # results of another recipe from here on
    if minutes is not None and wanted.then is not None:
        following = wanted.later[0]
        raise UserError(f"--minutes is for a single stage, and {following} follows this one: set then=null")
    if seeds is None and folds is None:
        if together is not None:
            raise UserError("--together is for several runs: add --seeds, e.g. --seeds 0,1,2, or --folds")
        from glmc.train import run, stages

        if out is not None and "TORCHELASTIC_RUN_ID" in os.environ and run.holds(out, wanted):
            # torchrun starts the same command again after a process has died
            harmless = tuple(each for each in overrides if each.partition("=")[0] in recipe.HARMLESS)
            run.resume(out, harmless, command=command, quiet=quiet, since=STARTED)
            stages.go_on(out, command=command, quiet=quiet, since=time.perf_counter())
            return
        stages.check(wanted)
        folder = run.train(wanted, out, minutes=minutes, command=command, quiet=quiet, since=STARTED)
        if wanted.then is not None:
            stages.go_on(folder, command=command, quiet=quiet, since=time.perf_counter())
        return
    numbers = [] if seeds is None else parse_seeds(seeds)
    from glmc.train import seeds as several

    if folds is not None:
        several.train_folds(wanted, folds, out, together=together, command=command, quiet=quiet, since=STARTED)
    else:
        several.train_seeds(wanted, numbers, out, together=together, command=command, quiet=quiet, since=STARTED)


def for_own_images(
    name: str | None, overrides: tuple[str, ...], quiet: bool, *, folded: bool
) -> tuple[str | None, tuple[str, ...]]:
    """The recipe and its overrides that suit a folder or a list of images, said in a sentence; others as they are.

    Args:
        name: of a recipe, a folder or a list; none where data.root may name one.
        overrides: key=value.
        quiet: say nothing.
        folded: whether --folds is given.
    """
    from glmc import recipe

    name, overrides = as_root(name, overrides)
    given = dict(assignment.partition("=")[::2] for assignment in overrides)
    if name is None and "data.root" in given and given.get("data.name", "folder") in ("folder", "list"):
        from glmc.data import sources
        from glmc.stats import advice, find

        of_data = [assignment for assignment in overrides if assignment.startswith("data.")]
        data = recipe.load("folder/finetune", of_data).data
        if folded:
            sources.refuse_own_tests(data.name, data.root, data.test_list)
        choice = advice.choose(find.scan(data), overrides)
        name, overrides = choice.recipe, (*choice.overrides, *overrides)
        if not quiet:
            print(f"{advice.command(name, overrides)}: {'; '.join(choice.why)}", file=sys.stderr)
    return name, overrides


def as_root(name: str | None, overrides: tuple[str, ...]) -> tuple[str | None, tuple[str, ...]]:
    """A folder or a list of images in the place of a recipe's name becomes overrides; other names stay."""
    from glmc import recipe
    from glmc.recipe.document import assigned

    if name is not None and Path(name).is_dir():
        if name in recipe.names():
            print(f"{name}: the recipe is meant; for the folder of that name write ./{name}", file=sys.stderr)
        else:
            overrides, name = (assigned("data.root", name), *overrides), None
    elif name is not None and Path(name).is_file() and Path(name).suffix.lower() in (".csv", ".tsv", ".txt"):
        from glmc.stats import find

        data = find.wanted(name, [assignment for assignment in overrides if assignment.startswith("data.")]).data
        rooted = any(assignment.startswith("data.root=") for assignment in overrides)
        root = () if rooted else (assigned("data.root", data.root),)
        overrides, name = ("data.name=list", assigned("data.train_list", name), *root, *overrides), None
    return name, overrides


@app.command()
def bench(
    words: Images = None,
    minutes: Annotated[float, typer.Option(min=0, help="How long all of it may take here.")] = 60,
    systems: Annotated[
        str | None,
        typer.Option(
            help="Names between commas, of `glmc list systems`, in place of the usual ones.",
            autocompletion=complete.systems,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; the same command goes on in it. Default: in runs/.")] = None,
    quiet: Quiet = False,
) -> None:
    """Try several systems on your own images in equal time, on images held out of the training images; say the best."""
    name, overrides = as_root(*split_words(words))
    if name is not None:
        raise UserError(f"{name}: glmc bench takes a folder or a list of images, and --systems a,b,c to choose systems")
    if not any(word.startswith("data.root=") for word in overrides):
        raise UserError("glmc bench needs your images: glmc bench FOLDER, or data.root=FOLDER")
    from glmc.train import bench as trials

    chosen = None if systems is None else systems.split(",")
    trials.bench(overrides, chosen, minutes, out, quiet=quiet, since=STARTED)


@app.command()
def finetune(
    run: RunReference,
    stage2: Annotated[str, typer.Option(help="maxnorm, crt, lws, mislas, distillation, ...: see glmc list stages")],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder, new or empty. Default: the next free one in runs/.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Carry out a second stage on a trained run: its classifier trained once more, or adjusted."""
    command = "glmc " + " ".join(map(shlex.quote, sys.argv[1:]))
    from glmc.deploy import hub
    from glmc.train import stages

    stages.finetune(hub.resolve(run), stage2, tuple(overrides or ()), out, command=command, quiet=quiet, since=STARTED)


@app.command()
def extend(
    run: RunReference,
    words: Images = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder, new or empty. Default: the next free one in runs/.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Teach a trained run new classes, or go on with more images of its own; the old images are trained on, too."""
    command = "glmc " + " ".join(map(shlex.quote, sys.argv[1:]))
    name, overrides = as_root(*split_words(words))
    if name is not None:
        raise UserError(f"{name}: there is no such folder or list of images; name one that is there")
    if not any(word.startswith("data.root=") for word in overrides):
        raise UserError("glmc extend needs the new images: glmc extend RUN FOLDER, or data.root=FOLDER")
    from glmc.deploy import hub
    from glmc.train import extend as room

    room.extend(hub.resolve(run), overrides, out, command=command, quiet=quiet, since=STARTED)


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
    from glmc.train import sweep as grid

    grid.sweep(wanted, assignments, parse_seeds(seeds), out, command=command, quiet=quiet, since=STARTED)


@app.command()
def test(
    run: RunReference,
    words: Words = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a run's last checkpoint, one checkpoint, or a published .pth.tar, on its test images or on others."""
    from glmc.deploy import hub

    path = hub.resolve(run)
    images, overrides = split_words(words)
    if path.is_file():
        from glmc.published import exchange

        if images is not None:
            raise UserError(f"{images}: a published file is tested on a recipe's data; write data.root={images}")
        result = exchange.test_published(path, overrides, quiet=as_json)
    elif images is not None:
        from glmc.inference import heldout

        result = heldout.score_given(path, Path(images), overrides, quiet=as_json)
    else:
        from glmc.runs import trained

        result = trained.test(path, overrides, quiet=as_json)
    if as_json:
        print(json.dumps(result, indent=1))
