"""Second stages: `glmc finetune RUN --stage2 NAME`, with training or without."""

import inspect
import json
import math
import shlex
import shutil
import time
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from glmc import posthoc, runtime
from glmc.errors import UserError
from glmc.methods.base import Method
from glmc.metrics import per_class
from glmc.models import build_backbone
from glmc.recipe import HARMLESS, Recipe, Settled, changed, choice, parse_settled
from glmc.recipe.document import head, shown
from glmc.runs import checkpoint, folder, result
from glmc.runs.files import write_atomic
from glmc.runs.result import Result
from glmc.runs.trained import build_method, find_checkpoint, load_trained, score, test_images
from glmc.screen import Screen
from glmc.train.conclusion import make_up_report
from glmc.train.run import resume, train

STAGES = files("glmc") / "stages"
POSTHOC = {"tau_norm": {"tau": 1.0}, "logit_adjustment": {"tau": 1.0}, "maxnorm_posthoc": {"threshold": 0.1}}
ADJUSTMENTS = {
    "tau_norm": posthoc.tau_norm,
    "logit_adjustment": posthoc.logit_adjustment,
    "maxnorm_posthoc": posthoc.max_norm,
}
ANEW = {  # what stage 2 does not take over from stage 1
    "optim.backbone_lr": "null",
    "optim.clip": "null",
    "optim.nesterov": "false",
    "optim.sharpness": "null",
    "train.ema": "null",
    "train.max_steps": "null",
    "train.progressive": "null",
    "then": "null",
    "train.warmup": "0",
    "train.milestones": "[]",
    "model.pretrained": "false",
    "model.cached": "false",
    "published": "null",
    "expect": "null",
}

PLAIN = (  # what is left once a classifier has been changed by hand: a backbone and a linear classifier
    "method={name: supervised}",
    "loss={name: cross_entropy}",
    "mixture={name: none}",
    "parent=null",
    "starts_from=null",
    "then=null",
    "published=null",
    "expect=null",
)


def stages() -> list[str]:
    """The names that `--stage2` takes: those that train, then those that only adjust the classifier."""
    return sorted(file.name.removesuffix(".yaml") for file in STAGES.iterdir()) + list(POSTHOC)


def listed() -> list[dict[str, Any]]:
    """Name, settings and first line of every second stage."""
    rows = []
    for name in stages():
        if name in POSTHOC:
            settings, about = POSTHOC[name], inspect.getdoc(ADJUSTMENTS[name])
        else:
            settings, about = stage_file(name)["train"], head((STAGES / f"{name}.yaml").read_text())
        words = " ".join(f"{key}={shown(value)}" for key, value in settings.items())
        rows.append({"name": name, "settings": words, "about": str(about).partition("\n")[0]})
    return rows


def finetune(
    run: Path, stage: str, overrides: tuple[str, ...], out: Path | None, *, command: str, quiet: bool, since: float
) -> Path:
    """Carry out a second stage on a trained run, in a new run folder, and return the folder.

    Args:
        run: of any method.
        stage: one of `stages()`.
        overrides: "key=value" of the second stage's recipe, or of the adjustment, e.g. "tau=0.7".
        out: the folder; none takes the next free one under runs/.
        command, quiet, since: as for `run.train`.

    Raises:
        UserError: no such run or stage, or an override that does not fit.
    """
    if stage not in stages():
        raise UserError(f"--stage2 {stage}: choose one of {', '.join(stages())}")
    point = find_checkpoint(run, Screen(quiet=quiet).warn)
    first = parse_settled(point.state["recipe"])
    if stage in POSTHOC:
        return adjust(point, run, first, stage, overrides, out, command=command, quiet=quiet)
    return train(second_recipe(first, run, stage, overrides), out, command=command, quiet=quiet, since=since)


class Following(NamedTuple):
    """A stage that a recipe names in `then`."""

    name: str
    overrides: tuple[str, ...]  # "key=value" of the stage's recipe, or of the adjustment


def following(recipe: Recipe) -> list[Following]:
    """The stages that come after the one that a recipe describes, in order.

    Raises:
        UserError: their words cannot be taken apart.
    """
    found = []
    for text in recipe.later:
        try:
            name, *overrides = shlex.split(text)
        except ValueError as error:
            raise UserError(f"then={text}: write a stage, then key=value, in quotes where it has blanks") from error
        found.append(Following(name, tuple(overrides)))
    return found


def check(recipe: Recipe) -> None:
    """Raise a `UserError` if a recipe names stages that are unknown, wrongly set, or cannot follow one another.

    What would come to light only after hours of the stage before, such as a classifier that cannot be taken over, is
    tried beforehand on a small network without images.
    """
    todo = following(recipe)
    if not todo:
        return
    before, method = recipe, rehearsed(recipe)
    for stage, overrides in todo:
        if stage not in stages():
            raise UserError(f"then={stage}: choose one of {', '.join(stages())}")
        if stage in POSTHOC and recipe.data.fold is not None:
            raise UserError(f"then={stage}: a cross-validation needs a stage that trains; set then=null")
        try:
            if stage in POSTHOC:
                before = before.override(*PLAIN, *posthoc_settings(stage, overrides)[1])
            else:
                before = second_recipe(before, Path("run"), stage, overrides, own=True)
            trained, method = method, rehearsed(before)
            method.adopt(trained, "backbone" if before.starts_from == "backbone" else "all")
            if stage in POSTHOC:
                method.prior = "uniform"  # as `load_trained` says of an adjusted classifier
        except (UserError, ValueError) as error:
            raise UserError(f"then={stage}: {error}") from error


def rehearsed(recipe: Recipe) -> Method:
    """The method of a recipe for two classes on a small network, whatever network the recipe names."""
    counts = torch.full((2,), 2**30)  # more images than any queue remembers
    loss, mixture = (choice.build(name, getattr(recipe, name).model_dump(), counts) for name in ("loss", "mixture"))
    experts = recipe.model.experts
    backbone = build_backbone("resnet20", experts=experts, experts_from="last" if experts > 1 else None)
    method: Method = choice.build("method", recipe.method.model_dump(), counts, (backbone, counts, loss, mixture))
    return method


def last(run: Path, recipe: Recipe) -> Path:
    """The folder that holds what a run comes to: its own, or that of the last stage that its recipe names."""
    number = 1 + len(following(recipe))
    return run if number == 1 else folder.stage(run, number)


def go_on(run: Path, *, command: str, quiet: bool, since: float, more: bool = False, again: Path | None = None) -> None:
    """Carry out the stages that the recipe of a run names: from their start, or from where they were interrupted.

    Args:
        run: its folder; nothing happens while it is not finished.
        command, quiet, since, more: as for `run.train`.
        again: the folder that goes on after an interruption; none for that of the run.
    """
    make_up_report(run)
    todo, parent = following(folder.recipe_of(run)), run
    if not todo:
        return
    if result.finished(end := folder.stage(run, 1 + len(todo))):
        make_up_report(end)
        return
    with folder.held(run):
        for number, (stage, overrides) in enumerate(todo, start=2):
            into, others = folder.stage(run, number), more or number <= len(todo)
            if not result.finished(parent):
                return
            if result.finished(into):
                make_up_report(into)
            elif (into / "recipe.yaml").exists() and stage not in POSTHOC:
                resume(into, command=command, quiet=quiet, since=since, more=others, again=again or run)
            else:
                shutil.rmtree(into, ignore_errors=True)  # what a kill left of it before it had a recipe, or a result
                point = find_checkpoint(parent, Screen(quiet=quiet).warn)
                first = parse_settled(point.state["recipe"])
                if stage in POSTHOC:
                    adjust(point, parent, first, stage, overrides, into, command=command, quiet=quiet)
                else:
                    staged = second_recipe(first, parent, stage, overrides, own=True)
                    train(staged, into, command=command, quiet=quiet, since=since, more=others, again=again or run)
            parent, since = into, time.perf_counter()


def stage_file(stage: str) -> dict[str, Any]:
    """The settings of a second stage that trains, and what was published of it."""
    sections: dict[str, Any] = yaml.safe_load((STAGES / f"{stage}.yaml").read_text())
    return sections


def second_recipe(first: Recipe, run: Path, stage: str, overrides: tuple[str, ...], *, own: bool = False) -> Recipe:
    """The recipe of stage 1 with method, optimizer and schedule of stage 2, and the run as parent.

    Args:
        first: of the stage before.
        run: its folder.
        stage: one that trains.
        overrides: "key=value" of the new recipe.
        own: whether these are of stage 1's recipe, whose published results they belong to.
    """
    sections = stage_file(stage)
    values = ANEW | {"name": f"{first.name}+{stage}", "parent": json.dumps(str(run.resolve()))}
    values |= {"starts_from": sections["starts_from"], "mixture": "{name: none}"}
    if first.model.heads in ("class_means", "class_names"):  # of the features as they were
        values |= {"model.heads": "he_zero", "model.text": "null"}
    values |= {section: json.dumps(sections[section]) for section in ("method", "loss")}
    for section in ("model", "optim", "train"):
        values |= {f"{section}.{key}": json.dumps(value) for key, value in sections[section].items()}
    if "batch" in sections:
        values["optim.lr"] = json.dumps(sections["optim"]["lr"] * first.data.batch_size / sections["batch"])
    known = sections.get("published", {}).get(first.name)
    if known is not None and first.published is not None and (own or not changed(overrides)):
        network = first.published.network  # only a recipe that nobody has changed still carries its results
        values["published"] = json.dumps({"top1": known, "network": network, "source": sections["source"]})
    staged = first.override(*[f"{key}={value}" for key, value in values.items()])
    return staged.override(*overrides)


def adjust(
    point: checkpoint.Checkpoint,
    run: Path,
    first: Settled,
    stage: str,
    overrides: tuple[str, ...],
    out: Path | None,
    *,
    command: str,
    quiet: bool,
) -> Path:
    """A second stage without training: the backbone and the classifier that predicts, adjusted, saved and scored."""
    settings, others = posthoc_settings(stage, overrides)
    name = json.dumps(f"{first.name}+{stage}")
    recipe = first.override(f"name={name}", *PLAIN, *others)
    with folder.claimed(out, recipe.name) as target:
        _adjust_in(target, point, run, first, recipe, stage, settings, command, Screen(target / "log.txt", quiet))
    return target


def _adjust_in(
    target: Path,
    point: checkpoint.Checkpoint,
    run: Path,
    first: Settled,
    recipe: Settled,
    stage: str,
    settings: dict[str, float],
    command: str,
    screen: Screen,
) -> None:
    """`adjust`, in the folder that is claimed."""
    try:
        before = load_trained(point, first.override(f"train.device={recipe.train.device}"))
        head = before.method.head()
        if head is None:
            raise UserError(f"--stage2 {stage}: {first.method.name} does not predict with one linear classifier")
        split = test_images(point, recipe, screen)
        device, counts = head.weight.device, torch.from_numpy(before.counts)
        trained = before._replace(method=build_method(recipe, counts, device, initial=False))
        adjust_head(head, stage, counts, settings)
        trained.method.backbone.load_state_dict(before.method.backbone.state_dict())
        trained.method.adopt_head(head)
        scores, confusion = score(trained, split, recipe)
    except BaseException:
        folder.release(target)
        raise
    mark = folder.record_environment(target, runtime.environment(device, recipe.train.precision, command))
    state = {**point.state, "recipe": recipe.to_yaml(), "name": recipe.name, "repair": {"name": stage, **settings}}
    state["run"] = mark
    checkpoint.save(target / "checkpoints", point.step, {"weights": trained.method.state_dict()}, state)
    write_atomic(target / "recipe.yaml", recipe.to_yaml())
    if (point.home / folder.SPLIT).exists():
        write_atomic(target / folder.SPLIT, (point.home / folder.SPLIT).read_bytes())
    folder.write_confusion(target / "confusion.csv", confusion, trained.classes)
    found = Result(
        recipe=recipe.name,
        method=first.system,
        backbone=recipe.model.name,
        parameters=sum(p.numel() for p in trained.method.parameters()),
        counts=trained.counts.tolist(),
        epochs=0,
        steps=0,
        seed=recipe.train.seed,
        last=scores,
        flip_tta=score(trained, split, recipe, how="flip")[0] if recipe.eval.flip_tta else None,
        crops_tta=score(trained, split, recipe, how="crops")[0] if recipe.eval.crops == 5 else None,
        stage2=stage,
        settings=settings,
        stage1=result.stage_one(run),
        per_class=per_class(confusion, trained.counts, trained.classes),
        weights_sha256=checkpoint.weights_sha256(trained.method.state_dict()),
    )
    result.write(target, found)
    folder.show(target, screen)


def posthoc_settings(stage: str, overrides: tuple[str, ...]) -> tuple[dict[str, float], list[str]]:
    """The settings of an adjustment, defaults replaced by "key=value", and the assignments that are for the recipe."""
    settings, others = dict(POSTHOC[stage]), []
    for assignment in overrides:
        key, _, text = assignment.partition("=")
        if key in HARMLESS or key.startswith("eval."):
            others.append(assignment)
            continue
        if key not in settings:
            raise UserError(f"{assignment}: {stage} is set by {', '.join(settings)}")
        try:
            settings[key] = float(text)
        except ValueError as error:
            raise UserError(f"{assignment}: {key} must be a number") from error
        if not math.isfinite(settings[key]) or (key == "threshold" and not 0 <= settings[key] <= 1):
            raise UserError(f"{assignment}: {key} must be finite, and a threshold lies in [0, 1]")
    return settings, others


@torch.no_grad()
def adjust_head(head: torch.nn.Linear, stage: str, counts: Tensor, settings: dict[str, float]) -> None:
    """Change a classifier in place, as `glmc.posthoc` says."""
    weight: Tensor = head.weight
    bias: Tensor = head.bias
    if stage == "tau_norm":
        weight, bias = posthoc.tau_norm(weight, bias, **settings)
    elif stage == "logit_adjustment":
        weight, bias = posthoc.logit_adjustment(weight, bias, counts.to(bias.device), **settings)
    else:
        weight = posthoc.max_norm(weight, posthoc.norm_limit(weight, **settings))
    head.weight.copy_(weight)
    head.bias.copy_(bias)
