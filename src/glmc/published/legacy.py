"""The published command lines, `main.py` and `test.py`, as a spelling of today's commands.

`glmc.published.flags` holds the flags and reads them. What comes out here is a recipe, what it is overridden with, and
remarks where the published code did something else than its flags say. `key=value` wins over the flags. What is printed
as the equivalent command is what then runs.
"""

import contextlib
import difflib
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml

from glmc import recipe
from glmc.data import parts
from glmc.errors import BAD_INPUT, UserError
from glmc.published.flags import DATA_SETS, DataSet, Program, flags, parse
from glmc.recipe.document import read


class Translation(NamedTuple):
    """A published command line in today's words."""

    recipe: str  # name, or the recipe file of the run that goes on
    overrides: tuple[str, ...]  # key=value each, of that recipe
    remarks: tuple[str, ...]  # sentences for the user
    out: Path | None  # folder of the new run; none: the next free one under runs/
    resume: Path | None  # the run that goes on; of `test`, what is evaluated
    show: bool  # print the recipe, and run nothing
    command: str  # the equivalent command, for a shell


# Networks of the published code for small images: the name here, and parameters without heads.
NETWORKS = {
    "resnet32": ("resnet32_w64", "7.4 M", "four times as wide as the ResNet-32 of the literature (resnet32, 0.46 M)"),
    "resnet18": ("resnet18_small", "11.2 M", "with the stem for small images (resnet18 is timm's)"),
    "resnet34": ("resnet34_small", "21.3 M", "with the stem for small images (resnet34 is timm's)"),
    "resnet50": ("resnet50_small", "23.5 M", "with the stem for small images (resnet50 is timm's)"),
}
LARGE_NETWORK = "resnext50_32x4d"  # of the published code for the large sets, whatever -a said
FOLDER_SIDE = 256  # pixels; training and testing see 7/8 of it, as usual for ImageNet
TESTED_ON = ("data.name", "data.train_list", "data.test_list", "eval.batch_size")  # a run may be tested on other images

# --- translation ------------------------------------------------------------------------------------------------------


def translate(argv: Sequence[str], program: Program) -> Translation:
    """A published command line in today's words.

    Args:
        argv: the words after `main.py` or `test.py`.
        program: which of the two.

    Raises:
        UserError: a flag that is unknown, ill-typed, or contradicts the data set.
    """
    given, assignments = parse(argv, program)
    remarks = [
        flag.remark.format(value=written(given[flag.name]))
        for flag in flags(program)
        if flag.remark and flag.name in given
    ]
    if program == "test":
        return _testing(given, assignments, remarks)
    return (_resuming if "resume" in given else _training)(given, assignments, remarks)


def _training(given: dict[str, Any], assignments: list[str], remarks: list[str]) -> Translation:
    """A new run."""
    data_set = _data_set(given)
    values, of_network = _values("main", data_set, given, assignments)
    base = recipe.load(data_set.recipe).model_dump()
    values = {key: value for key, value in values.items() if _at(base, key) != value}
    unsaid = [
        f"--{flag.name} {written(flag.default)}"
        for flag in flags("main")
        if flag.key
        and flag.default is not None
        and flag.name not in {*given, "seed"}
        and values.get(flag.key) == flag.default
        and not _replaced(flag.key, assignments)
    ]
    if unsaid:
        remarks.append(f"not given, so that the published defaults hold: {', '.join(unsaid)}")
    remarks += of_network + _remarks_on_data(data_set, given, values)
    overrides = _overrides(values, assignments)
    _refuse_other_classes(data_set, given, overrides)
    out, of_folder = _out(given)
    words = [data_set.recipe, *(["--out", str(out)] if out else []), *overrides]
    return Translation(
        data_set.recipe,
        overrides,
        (*remarks, *of_folder),
        out,
        None,
        given.get("show", False),
        shlex.join(["glmc", "train", *words]),
    )


def _resuming(given: dict[str, Any], assignments: list[str], remarks: list[str]) -> Translation:
    """A run that goes on: it keeps its recipe, only place and device may change."""
    run = Path(given["resume"])
    if run.is_file() or run.name.endswith((".pth.tar", ".pth")):
        raise UserError(
            f"--resume {run}: a published checkpoint holds neither optimiser nor schedule, so that its training cannot "
            f"go on; evaluate it with test.py --resume {run}, or name a run folder that was written here"
        )
    used = {"data.root": given["root"]} if "root" in given else {}
    used |= {"train.device": "cuda"} if "gpu" in given else {}
    overrides = _overrides(used, assignments)
    remarks.append(f"{run} goes on with its own recipe: other flags than --root and --gpu have no effect")
    command = shlex.join(["glmc", "train", "--resume", str(run), *overrides])
    show = given.get("show", False)
    return Translation(str(run / "recipe.yaml"), overrides, tuple(remarks), None, run, show, command)


def _testing(given: dict[str, Any], assignments: list[str], remarks: list[str]) -> Translation:
    """An evaluation. What is evaluated says itself which network it is, so `-a` is only shown."""
    if "resume" not in given:
        raise UserError("test.py needs --resume, the .pth.tar file or run folder to evaluate")
    path = Path(given["resume"])
    data_set = _data_set(given)
    values, of_network = _values("test", data_set, given, assignments)
    remarks += _remarks_on_data(data_set, given, values)
    if "arch" in given:
        remarks += [*of_network, f"-a {given['arch']} is not needed: {path} itself says which network it is"]
    network = values.pop("model.name")
    values = {"data.name": data_set.name, **values}
    name, shown = data_set.recipe, values | {"model.name": network}
    if path.is_dir():  # a run of ours, which carries its recipe
        values = shown = {key: value for key, value in values.items() if key in recipe.HARMLESS or key in TESTED_ON}
        name = str(path / "recipe.yaml")
    overrides = _overrides(values, assignments)
    _refuse_other_classes(data_set, given, overrides)
    command = shlex.join(["glmc", "test", str(path), *overrides])
    show = given.get("show", False)
    return Translation(name, _overrides(shown, assignments), tuple(remarks), None, path, show, command)


def _data_set(given: Mapping[str, Any]) -> DataSet:
    """The data set that is meant, with lists and class count that do not contradict it."""
    if "dataset" not in given:
        raise UserError(f"give --dataset: one of {', '.join(DATA_SETS)}")
    word = given["dataset"]
    if word not in DATA_SETS:
        near = difflib.get_close_matches(word, DATA_SETS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"--dataset {word} is unknown: {hint}choose one of {', '.join(DATA_SETS)}")
    data_set = DATA_SETS[word]
    for name in ("dir_train_txt", "dir_test_txt"):
        if name in given and data_set.kind != "large":
            raise UserError(
                f"--{name} {given[name]}: {word} is not read from lists; leave the flag out, or for a set of your own "
                f"take data.name=list data.train_list=... data.test_list=... instead of it"
            )
    if data_set.classes not in (None, given.get("num_classes", data_set.classes)):
        raise UserError(
            f"--num_classes {given['num_classes']}: {word} has {data_set.classes} classes; "
            f"give --num_classes {data_set.classes}, or leave the flag out"
        )
    return data_set


def _values(
    program: Program, data_set: DataSet, given: Mapping[str, Any], assignments: Iterable[str]
) -> tuple[dict[str, Any], list[str]]:
    """Key of the recipe -> value, from flags, published defaults and data set; and remarks on the network."""
    values = {flag.key: given.get(flag.name, flag.default) for flag in flags(program) if flag.key}
    values = {key: value for key, value in values.items() if value is not None}
    if data_set.kind == "large":
        values.pop("data.imbalance")  # the lists have their tail
    if data_set.kind == "folder":
        values = _folder(data_set, program, assignments) | values | {"data.imbalance": given.get("imbanlance_rate")}
    if values.get("data.imbalance") and "seed" in given and not _replaced("data.split", assignments):
        values["data.split_seed"] = given["seed"]  # one seed for everything in the published code
    network, remarks = _network(program, data_set, given.get("arch"))
    values["model.name"] = network
    if program == "main":
        values["model.heads"] = "he_uniform" if network == NETWORKS["resnet32"][0] else "uniform"
    if "gpu" in given:
        values["train.device"] = "cuda"
    return values, remarks


def _folder(data_set: DataSet, program: Program, assignments: Iterable[str]) -> dict[str, Any]:
    """What a folder of photographs needs in place of the values for CIFAR-10."""
    wanted = [word.partition("=")[2] for word in assignments if word.startswith("data.size=")]
    side = int(wanted[-1]) if wanted and wanted[-1].isdecimal() else FOLDER_SIDE
    seen = side - side // 8
    training = {
        "name": "nepes/glmc_published",
        "published": None,
        "data.name": data_set.name,
        "views.train": [{"resized_crop": {"size": seen, "scale": [0.08, 1.0]}}, "flip"],
    }
    common = {"data.size": side, "data.mean": None, "data.std": None, "views.test": [{"center_crop": seen}]}
    return (training if program == "main" else {}) | common


def _network(program: Program, data_set: DataSet, given: str | None) -> tuple[str, list[str]]:
    """The backbone's name here, and remarks."""
    if data_set.kind == "large":
        if given in (None, LARGE_NETWORK):
            return LARGE_NETWORK, []
        name = NETWORKS["resnet32"][0] if given == "resnet32" else given
        return name, [f"-a {given} is {name} here; the published code used {LARGE_NETWORK} there, whatever -a said"]
    word = given or {"main": "resnet34", "test": "resnet32"}[program]
    if word == "resnet32" or (data_set.kind == "small" and word in NETWORKS):
        name, parameters, what = NETWORKS[word]
        unsaid = "" if given else ", the published default,"
        return name, [f"-a {word}{unsaid} is {name} here as in the published code: {parameters} parameters, {what}"]
    return word, [] if given else [f"not given, so that the published default holds: -a {word}"]


def _remarks_on_data(data_set: DataSet, given: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """What is to be said of the images."""
    remarks = []
    if "root" not in given:
        remarks.append("without --root, the images are looked for in the folder data, as the documents have it")
    if data_set.kind == "large" and "imbanlance_rate" in given:
        remarks.append(f"--imbanlance_rate has no effect: the lists of {given['dataset']} are long-tailed already")
    if "data.size" in values:
        side, seen = values["data.size"], values["views.test"][0]["center_crop"]
        remarks.append(
            f"{given['dataset']} is a folder of images: they are brought to {side} x {side} pixels, training sees "
            f"random parts at {seen} x {seen}, testing the middle {seen} x {seen}, normalised as measured; "
            f"data.size=N scales all of it"
        )
    return remarks


def _refuse_other_classes(data_set: DataSet, given: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """A folder must have the classes that the command line tells, if the folder is there."""
    if data_set.classes is not None or "num_classes" not in given:
        return
    data = recipe.load(data_set.recipe, overrides).data
    classes = given["num_classes"]
    with contextlib.suppress(UserError):  # whatever is wrong with the folder is told by the command itself
        classes = len(parts.find(data).train.classes)
    if classes != given["num_classes"]:
        raise UserError(
            f"--num_classes {given['num_classes']}: {data.root} has {classes} classes; "
            f"give --num_classes {classes}, or leave the flag out"
        )


def _out(given: Mapping[str, Any]) -> tuple[Path | None, list[str]]:
    """The folder of a new run, and remarks on it."""
    place = given.get("root_model", given.get("root_log"))
    remarks = []
    if given.get("root_log", place) != place:
        remarks.append(f"--root_log {given['root_log']} has no effect: a run has one folder, in --root_model {place}")
    if "store_name" in given:
        return Path(place or "runs") / given["store_name"], remarks
    return None if place is None else Path(place), remarks


# --- recipe values as text --------------------------------------------------------------------------------------------


def _overrides(values: Mapping[str, Any], assignments: Sequence[str]) -> tuple[str, ...]:
    """key=value for all values, except those that the user's own assignments replace, then these."""
    kept = {key: value for key, value in values.items() if not _replaced(key, assignments)}
    return (*(f"{key}={written(value)}" for key, value in kept.items()), *assignments)


def _replaced(key: str, assignments: Iterable[str]) -> bool:
    """Whether an assignment is to this key, to a group around it, or to the class whose setting it is."""
    own = [word.partition("=")[0].strip() for word in assignments]
    sections = [name.removesuffix("name") for name in own if name.endswith(".name")]  # another class has other settings
    return any(key == name or key.startswith(f"{name}.") for name in own) or key.startswith(tuple(sections))


def _at(tree: Any, key: str) -> Any:
    """The value of a dotted key, none if it is not there."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def written(value: Any) -> str:
    """A value as the right-hand side of an override: 0.005 -> "0.005", 100.0 -> "100", None -> "null"."""
    if value is None:
        return "null"
    if isinstance(value, str):
        with contextlib.suppress(UserError):
            if read(value, "").tree == value:
                return value
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=sys.maxsize).strip()
    return repr(value).removesuffix(".0")


# --- running ----------------------------------------------------------------------------------------------------------


def main(program: Program, command_line: Callable[[], None]) -> NoReturn:
    """Run `main.py` or `test.py`: say what the command line means, then do it; see `glmc.errors` for the exit codes.

    Args:
        program: which of the two.
        command_line: `glmc.__main__.main`, which carries out what then stands in `sys.argv`.
    """
    debug = ["--debug"] if "--debug" in sys.argv else []
    try:
        translation = translate([word for word in sys.argv[1:] if word != "--debug"], program)
    except UserError as error:
        if debug:
            raise
        print(f"{program}.py: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    print(f"# the same in today's words: {translation.command}")
    for remark in translation.remarks:
        print(f"# remark: {remark}")
    shown = ["show", translation.recipe, *translation.overrides]
    sys.argv = ["glmc", *(shown if translation.show else shlex.split(translation.command)[1:]), *debug]
    command_line()
    sys.exit()
