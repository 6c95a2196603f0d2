"""A recipe: everything a run depends on, in one typed document of YAML. No torch in here.

Files and `key=value` overrides are read alike, with the scalars of the YAML 1.2 core schema: `5e-3` is a number, and
`no`, `on`, `2023-05-15` and `1:30` are text (PyYAML by itself follows YAML 1.1, where they are not). Every key is
known: an unknown, repeated, missing or ill-typed one is refused with its line and the nearest right one, and all
mistakes of a recipe are told together.

The keys under `method` are the keyword-only arguments of the method's constructor. They are read from its source file
without running it, because importing a method would import torch.
"""

import ast
import difflib
import importlib.util
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.resources import files
from inspect import Parameter
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Self, Union, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from glmc.errors import UserError
from glmc.methods import METHODS

RECIPES = files("glmc") / "recipes"
LARGEST_FILE = 1 << 18  # bytes; a recipe has about a thousand, and a picture given by mistake should not be parsed
STRICT = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

KeyPath = tuple[str | int, ...]


# --- the keys ---------------------------------------------------------------------------------------------------------


class Section(BaseModel):
    """A group of keys. Strict: no key more, no type bent; a whole number may stand where a number is wanted."""

    model_config = STRICT


def rule(key: str, predicate: str) -> PydanticCustomError:
    """The complaint "<section>.<key> <predicate>", for what depends on more than one key."""
    return PydanticCustomError("rule", "{predicate}", {"key": key, "predicate": predicate})


class Published(Section):
    """What the method's authors report for this recipe."""

    top1: float = Field(ge=0, le=100, description="top-1 accuracy in percent")
    network: str = Field(min_length=1, description="the network behind the figure, by its name here")
    source: str = Field(min_length=1, description="where the figure stands, with its date")


class Expect(Section):
    """What this recipe gave here: copied from a record under benchmarks/records, never typed."""

    top1: float = Field(ge=0, le=100, description="mean top-1 accuracy of the last epoch, in percent")
    sd: float = Field(ge=0, description="sample standard deviation over the seeds, in percentage points")
    seeds: int = Field(ge=1, description="number of seeds")
    record: str = Field(min_length=1, description="the record, under benchmarks/records")


class Data(Section):
    """Which images, how long a tail they get, and how many make a batch."""

    name: str = Field(min_length=1, description="data set: digits, cifar10, cifar100, folder or list")
    root: str = Field("data", min_length=1, description="folder of the images; a leading ~ is the home folder")
    download: bool = Field(True, description="whether a missing public data set may be fetched")
    imbalance: float | None = Field(
        None, ge=1, description="training images of the largest class / of the smallest; null: the images as they are"
    )
    profile: Literal["exponential", "step"] = Field(
        "exponential", description="class sizes fall geometrically, or the second half of the classes is small"
    )
    n_max: int | None = Field(None, ge=1, description="images of the largest class; null: all it has")
    class_order: Literal["given"] | Annotated[int, Field(ge=0, lt=2**32)] = Field(
        "given", description="classes from large to small: in label order, or shuffled by this seed"
    )
    split: Literal["cao", "du"] = Field(
        "cao", description="which images stay: as Cao et al. 2019 draw them, or as Du et al. 2023 do"
    )
    train_list: str | None = Field(None, min_length=1, description="file of training images and labels, or null")
    test_list: str | None = Field(None, min_length=1, description="file of test images and labels, or null")
    val_list: str | None = Field(None, min_length=1, description="file of validation images and labels, or null")
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="part of each class held out for testing, in (0, 1), where no test set is given"
    )
    val_fraction: float = Field(
        0.0, ge=0, lt=1, description="part of each training class held out for validation, in [0, 1)"
    )
    size: int | None = Field(
        None, ge=1, description="side in pixels that images are brought to; null: the one they have"
    )
    channels: Literal[1, 3] | None = Field(None, description="1 grey, 3 colour; null: as the images are")
    mean: list[Annotated[float, Field(ge=0, le=1)]] | None = Field(
        None, description="subtracted, one per channel, in [0, 1]; null: the data set's own"
    )
    std: list[Annotated[float, Field(gt=0, le=1)]] | None = Field(
        None, description="divided by, one per channel, in (0, 1]; null: the data set's own"
    )
    batch_size: int = Field(64, ge=1, description="training images a step and stream")
    cache: bool = Field(True, description="whether decoded images are kept on disk")

    @field_validator("channels", mode="before")
    @classmethod
    def _counted(cls, value: Any) -> Any:
        if isinstance(value, bool | float):  # Python finds True and 1.0 equal to 1
            raise rule("", f"must be 1 (grey), 3 (colour) or null (as the images are), not {_shown(value)}")
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.imbalance is None and self.n_max is not None:
            raise rule("n_max", "has no effect without data.imbalance: give both, or set n_max to null")
        if (self.mean is None) != (self.std is None):
            raise rule("mean" if self.std is None else "std", "stands alone: give data.mean and data.std, or neither")
        for key, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) not in ({1, 3} if self.channels is None else {self.channels}):
                raise rule(key, f"must have one value per channel ({self.channels or '1 or 3'}), not {len(values)}")
        return self


class Crop(Section):
    """A window of the image's own size at a random place, over a black border."""

    crop: int = Field(ge=0, description="border in pixels")


class CenterCrop(Section):
    """The middle of the image."""

    center_crop: int = Field(ge=1, description="side in pixels")


class Region(Section):
    """A random part of the image, resized."""

    size: int = Field(ge=1, description="side of the result in pixels")
    scale: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [0.08, 1.0], description="smallest and largest part of the image's area, in (0, 1]"
    )

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if len(self.scale) != 2 or self.scale[0] > self.scale[1]:
            raise rule("scale", "must be two numbers, the smaller first, e.g. [0.08, 1.0]")
        return self


class ResizedCrop(Section):
    """See `Region`."""

    resized_crop: Region


OPERATIONS: dict[str, type[Section]] = {"crop": Crop, "resized_crop": ResizedCrop, "center_crop": CenterCrop}


def _operation(op: Any) -> Any:
    """One operation of a view, checked, complete with its defaults: "flip" or {name: value}."""
    if op == "flip":
        return op
    name = next(iter(op)) if isinstance(op, dict) and len(op) == 1 else None
    if name not in OPERATIONS:
        wanted = "flip, {crop: border}, {resized_crop: {size, scale}} or {center_crop: side}"
        raise rule("", f"must be {wanted}, not {_shown(op)}")
    return OPERATIONS[name].model_validate(op).model_dump()


class Model(Section):
    """The network between images and features."""

    name: str = Field(min_length=1, description="backbone: of `glmc list backbones`, or any of timm's")
    pretrained: bool | str = Field(
        False, description="true: timm's weights for this name; or a file of weights; false: random initial weights"
    )
    freeze: bool = Field(False, description="whether the backbone keeps its weights and only the heads learn")
    batch_norm: Literal["split", "two_pass", "joint"] = Field(
        "split", description="statistics for each view in one pass, in one pass a view, or over all views together"
    )

    @field_validator("pretrained")
    @classmethod
    def _not_a_yes(cls, value: bool | str) -> bool | str:
        if isinstance(value, str) and value.lower() in {"", "yes", "no", "on", "off"}:
            raise rule("", f"must be true, false or a file of weights, not {_shown(value)}")
        return value


class MethodChoice(Section):
    """The method and its own parameters; in the document they stand side by side."""

    name: str = Field(min_length=1, description='method: of `glmc list methods`, or a class as "package.module:Class"')
    params: dict[str, Any] = Field({}, description="what the method's constructor takes, complete with defaults")

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"name": self.name, **self.params}


class Optim(Section):
    """The optimiser."""

    name: Literal["sgd", "adamw"] = Field("sgd", description="stochastic gradient descent, or AdamW")
    lr: float = Field(gt=0, description="peak learning rate, above 0")
    backbone_lr: float | None = Field(None, gt=0, description="peak learning rate of the backbone; null: as the heads'")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd, in [0, 1)")
    nesterov: bool = Field(False, description="whether sgd's momentum looks ahead")
    weight_decay: float = Field(ge=0, description="of every weight; added to the gradient by sgd, decoupled by adamw")
    clip: float | None = Field(None, gt=0, description="largest norm of the whole gradient; null: not clipped")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.nesterov and self.name != "sgd":
            raise rule("nesterov", f"is for optim.name=sgd only, and this is {self.name}: set it to false")
        if self.nesterov and self.momentum == 0:
            raise rule("nesterov", "needs optim.momentum above 0: raise it, or set nesterov to false")
        return self


class Train(Section):
    """How long, at which pace, and where."""

    epochs: int = Field(ge=1, description="passes over the training images")
    schedule: Literal["cosine", "step", "constant"] = Field(
        "cosine", description="learning rate over the run: down to 0, down at milestones, or level"
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="part of the epochs with a climbing learning rate, in [0, 1)")
    milestones: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [], description="where a step schedule steps, ascending fractions of the epochs, in (0, 1)"
    )
    decay: float = Field(0.1, gt=0, lt=1, description="factor of the learning rate at each milestone, in (0, 1)")
    seed: int = Field(0, ge=0, lt=2**32, description="of everything random in the run, in [0, 2**32)")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where to compute; auto: the fastest")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the products; auto: bfloat16 where the hardware is made for it"
    )
    ema: float | None = Field(
        None, gt=0, lt=1, description="what a running mean of the weights keeps each step, in (0, 1); null: no mean"
    )
    max_steps: int | None = Field(None, ge=1, description="stop after this many steps; null: after the epochs")
    save_minutes: float = Field(
        10.0, gt=0, description="longest time between checkpoints in minutes; each epoch ends in one"
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.schedule == "step" and not self.milestones:
            raise rule("schedule", "is step, which needs train.milestones, e.g. [0.8, 0.9]")
        if self.schedule != "step" and self.milestones:
            raise rule("milestones", f"has no effect with train.schedule={self.schedule}: set it to [], or use step")
        if any(late <= early for early, late in zip(self.milestones, self.milestones[1:], strict=False)):
            raise rule("milestones", f"must ascend, not {_shown(self.milestones)}")
        return self


class Eval(Section):
    """When and how to measure."""

    every: int = Field(1, ge=1, description="epochs between evaluations; the last epoch is always evaluated")
    batch_size: int = Field(1000, ge=1, description="test images a step")
    few: Literal["<20", "<=20"] = Field("<20", description="training images of a few-shot class")
    flip_tta: bool = Field(True, description="whether figures with mirrored images averaged in stand beside the others")
    select: Literal["last", "val"] = Field(
        "last", description="which epoch is reported: the last, or the best on the validation images"
    )


class Recipe(Section):
    """A whole recipe. Sections stand in the order in which a reader asks for them."""

    name: str = Field(min_length=1, description="dataset/method; of a file of your own, its name")
    published: Published | None = None
    expect: Expect | None = None
    data: Data
    views: dict[str, list[Annotated[Any, AfterValidator(_operation)]]] = Field(
        description="augmentations by name, each a list of flip, {crop: border}, {resized_crop: {size, scale}} or "
        "{center_crop: side}; train and test must be there"
    )
    model: Model
    method: MethodChoice
    optim: Optim
    train: Train
    eval: Eval = Eval.model_validate({})

    _about: str = PrivateAttr("")

    @property
    def about(self) -> str:
        """The comment at the head of the recipe: what it is, where its values come from, how to run it."""
        return self._about

    @field_validator("views")
    @classmethod
    def _views_of_both_kinds(cls, views: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for name in ("train", "test"):
            if name not in views:
                raise rule("", f"must hold {name}, a list of operations, e.g. {name}: []")
        for name, operations in views.items():
            used = [op if isinstance(op, str) else next(iter(op)) for op in operations]
            for op, times in Counter(used).items():
                if times > 1:
                    raise rule(name, f"holds {op} {times} times: once is enough")
            if name == "test" and set(used) - {"center_crop"}:
                raise rule(name, "may hold center_crop only: the other operations are random, and tests must not be")
        return views

    def override(self, *assignments: str) -> "Recipe":
        """A recipe with some values replaced, e.g. `recipe.override("train.seed=3")`; checked as `load` checks.

        Raises:
            UserError: an assignment is not `key=value`, or the result is not a right recipe.
        """
        return _build(self.model_dump(), {}, [], assignments, f"recipe {self.name}", self.about)

    def to_yaml(self) -> str:
        """The complete document, defaults written out; `load` reads it back equal."""
        representer = yaml.representer.SafeRepresenter(default_flow_style=True, sort_keys=False)
        document = representer.represent_data(self.model_dump())
        for node in (document, *(value for _, value in document.value)):
            node.flow_style = isinstance(node, yaml.SequenceNode)  # two levels of lines, everything below within a line
        head = "".join(f"# {line}".rstrip() + "\n" for line in self.about.splitlines())
        return head + yaml.serialize(document, Dumper=_Dumper, allow_unicode=True, width=120)


class Key(NamedTuple):
    """One key of a recipe, for people."""

    name: str  # dotted, e.g. "train.seed"
    kind: str  # e.g. "whole number or null"
    default: Any  # inspect.Parameter.empty where the key must be given
    meaning: str  # with unit and range


def describe() -> list[Key]:
    """Every key of every recipe in document order; a method's own are told by `method_parameters`."""
    keys = []
    for name, field in Recipe.model_fields.items():
        section = _section(field.annotation)
        inner = {f"{name}.{k}": f for k, f in section.model_fields.items()} if section else {name: field}
        for dotted, f in inner.items():
            default = Parameter.empty if f.is_required() else f.default
            keys.append(Key(dotted, kind(f.annotation), default, f.description or ""))
    return [key for key in keys if key.name != "method.params"]


def kind(annotation: Any) -> str:
    """A type in words: float | None -> "number or null"."""
    words = {float: "number", int: "whole number", bool: "true or false", str: "text", NoneType: "null"}
    if annotation in words:
        return words[annotation]
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin in (Union, UnionType):
        return " or ".join(kind(member) for member in inner)
    if origin is Annotated:
        return kind(inner[0])
    return f"list of {kind(inner[0])}s" if origin is list else "lists by name"


def _section(annotation: Any) -> type[Section] | None:
    """The section among `annotation` and what it is a union of."""
    members = [m for m in (annotation, *get_args(annotation)) if isinstance(m, type) and issubclass(m, Section)]
    return members[0] if members else None


# --- reading ----------------------------------------------------------------------------------------------------------


def names() -> list[str]:
    """The recipes of the package, sorted: "<dataset>/<method>"."""
    folders = [folder for folder in RECIPES.iterdir() if folder.is_dir()]
    found = [(folder.name, file.name) for folder in folders for file in folder.iterdir()]
    return sorted(f"{folder}/{file.removesuffix('.yaml')}" for folder, file in found if file.endswith(".yaml"))


def load(name_or_file: str, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe.

    Args:
        name_or_file: one of `names()`, or a YAML file.
        overrides: "key=value" each; the key dotted, the value YAML, e.g. "train.seed=3", "method={name: ce}".

    Raises:
        UserError: no such recipe, or mistakes in it or in the overrides: all of them, each with its place.
    """
    if name_or_file in names():
        text = RECIPES.joinpath(f"{name_or_file}.yaml").read_text(encoding="utf-8")
        name, label = name_or_file, f"{name_or_file}.yaml"
    else:
        text, name, label = _read(name_or_file), Path(name_or_file).stem, name_or_file
    return parse(text, overrides, name=name, label=label)


def parse(text: str, overrides: Sequence[str] = (), *, name: str = "", label: str = "recipe") -> Recipe:
    """Reads a recipe from its text, e.g. the one that a checkpoint carries.

    Args:
        text: YAML.
        overrides: as for `load`.
        name: of the recipe, where the text does not tell.
        label: what complaints call the text.

    Raises:
        UserError: mistakes in the text or in the overrides.
    """
    tree, places, problems = _parse(text, lambda line: Place(line, f"{label}:{line}"))
    if not isinstance(tree, dict):
        raise UserError(f"{label} holds no recipe: write sections such as `data: {{name: digits}}`")
    return _build({"name": name, **tree}, places, problems, overrides, label, _head(text))


def _read(file: str) -> str:
    """The text of a recipe file."""
    path = os.path.expanduser(file)
    if os.path.isdir(path) or not (path.endswith((".yaml", ".yml")) or os.path.exists(path)):
        near = difflib.get_close_matches(file, names(), n=3, cutoff=0.4)
        guess = f"did you mean {' or '.join(near)}? " if near else ""
        raise UserError(
            f"there is no recipe {file!r}; {guess}`glmc list recipes` names all, and a file of your own ends in .yaml"
        )
    try:
        with open(path, "rb") as stream:
            raw = stream.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"the recipe file {file!r} cannot be read: {reason}") from error
    if len(raw) > LARGEST_FILE:
        raise UserError(f"{file} is larger than {LARGEST_FILE} bytes, which no recipe is: give the recipe's own file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}:{line}: this is not text in UTF-8: save the recipe in that encoding") from error


def _head(text: str) -> str:
    """The comment lines before anything else, without their #."""
    about = []
    for line in text.lstrip().splitlines():
        if not line.lstrip().startswith("#"):
            break
        about.append(line.lstrip()[1:].removeprefix(" ").rstrip())
    return "\n".join(about).strip("\n")


class Place(NamedTuple):
    """Where something was written; sorts in reading order, overrides last."""

    order: int  # line of a file, or OVERRIDES + number of the override
    text: str


OVERRIDES = 1 << 32
NOWHERE = Place(0, "")

Problem = tuple[Place, str]
Places = dict[KeyPath, Place]


class _Loader(yaml.SafeLoader):
    """YAML as nodes, with the tag "plain" or "quoted" on scalars; neither aliases nor tags, which no recipe needs."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node with everything below."""
        event: Any = self.peek_event()
        mark: Any = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "recipes use no aliases (*name)", mark)
        if event.tag is not None:
            raise yaml.composer.ComposerError(None, None, "recipes use no tags (!name)", mark)
        return super().compose_node(parent, index)

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        """The tag of a node; our own reading of scalars comes later, see `_scalar`."""
        return "quoted" if kind is yaml.ScalarNode and not implicit[0] else "plain"


class _Dumper(yaml.SafeDumper):
    """Quotes text that either YAML 1.1 or YAML 1.2 would read as something else."""


WORDS = {"": None} | dict.fromkeys(("null", "Null", "NULL", "~"))
WORDS |= dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
INTEGER = re.compile(r"[-+]?[0-9]{1,300}|0o[0-7]{1,300}|0x[0-9a-fA-F]{1,300}")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(f"^({INTEGER.pattern})$"), list("-+0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^({FLOAT.pattern})$"), list("-+.0123456789"))


def _scalar(text: str) -> Any:
    """A plain scalar by the YAML 1.2 core schema."""
    if text in WORDS:
        return WORDS[text]
    if INTEGER.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if FLOAT.fullmatch(text):
        return float(text.replace(".inf", "inf").replace(".nan", "nan")) if "n" in text.lower() else float(text)
    return text


def _parse(text: str, at: Callable[[int], Place], path: KeyPath = ()) -> tuple[Any, Places, list[Problem]]:
    """YAML -> plain values, where each of them stands, and the keys that stand twice.

    Args:
        text: the YAML.
        at: line, from 1 -> place.
        path: of the whole in the document.

    Raises:
        UserError: the text is not YAML, or more of it than a recipe uses.
    """
    places: Places = {path: at(1)}
    problems: list[Problem] = []
    line, reason = 1, ""
    try:
        root = yaml.compose(text, Loader=_Loader)
        return None if root is None else _value(root, path, at, places, problems), places, problems
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        reason = " ".join(filter(None, (error.context, error.problem)))
    except yaml.reader.ReaderError as error:
        line, reason = text.count("\n", 0, error.position) + 1, "unprintable character"
    except (ValueError, OverflowError) as error:  # PyYAML on "\UFFFFFFFF" and its like
        reason = str(error)
    except RecursionError:
        reason = "brackets nested too deeply"
    advice = "text with special characters needs quotes, and a colon a space after it"
    raise UserError(f"{at(line).text}: this cannot be read as YAML: {reason}; {advice}")


def _value(node: yaml.Node, path: KeyPath, at: Callable[[int], Place], places: Places, problems: list[Problem]) -> Any:
    """The plain value of a node; notes places and repeated keys on the way."""
    places.setdefault(path, at(node.start_mark.line + 1))
    if isinstance(node, yaml.ScalarNode):
        _check_text(node.value, places[path])
        return _scalar(node.value) if node.tag == "plain" else node.value
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, n), at, places, problems) for n, item in enumerate(node.value)]
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = at(key_node.start_mark.line + 1)
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{place.text}: a key must be a word, not a list or a group")
        key = key_node.value
        _check_text(key, place)
        inner = (*path, key)
        if key in result:
            problems.append((place, f"{_dotted(inner)} is written twice, first at {places[inner].text}: keep one"))
        places[inner] = place
        result[key] = _value(value_node, inner, at, places, problems)
    return result


def _check_text(text: str, place: Place) -> None:
    """Refuses what no file name, screen or UTF-8 file can take."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{place.text}: the text {_short(text)!a} holds a character that cannot be written; remove it")


def _assign(tree: dict[str, Any], places: Places, assignment: str, order: int) -> list[Problem]:
    """Carries out one override on the tree; returns what is wrong with it."""
    place = Place(order, f"override {_short(assignment)}")
    key, equals, text = assignment.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        return [(place, "an override is written key=value, e.g. train.seed=3")]
    try:
        value, inner, problems = _parse(text, lambda line: place, path)
    except UserError as error:
        return [(place, str(error).removeprefix(f"{place.text}: "))]
    node = tree
    for depth, part in enumerate(path[:-1], start=1):
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
        if not isinstance(node, dict):
            return [(place, f"{_dotted(path[:depth])} holds no keys: set it as a whole, {_dotted(path[:depth])}=...")]
    node[path[-1]] = value
    if path in places and places[path].order > OVERRIDES:
        problems.append((place, f"{_dotted(path)} is set twice, first by {places[path].text}: keep one"))
    for old in [old for old in places if old[: len(path)] == path]:
        del places[old]
    places.update(inner)
    for depth in range(1, len(path) + 1):
        places.setdefault(path[:depth], place)
    return problems


# --- checking ---------------------------------------------------------------------------------------------------------


def _build(
    tree: dict[str, Any], places: Places, problems: list[Problem], overrides: Iterable[str], label: str, about: str
) -> Recipe:
    """Checks a tree of plain values with the overrides on top, and tells every mistake at once."""
    for n, assignment in enumerate(overrides, start=1):
        problems = problems + _assign(tree, places, assignment, OVERRIDES + n)
    method, wrong = _check_method(tree.get("method"), places)
    try:
        recipe = Recipe.model_validate({**tree, "method": method} if "method" in tree else tree)
    except ValidationError as error:
        wrong += _mistakes(error, tree, ())
    problems = problems + [(_place(path, places, label), sentence) for path, sentence in wrong]
    if problems:
        lines = [f"{place.text}: {sentence}" for place, sentence in sorted(problems)]
        raise UserError(lines[0] if len(lines) == 1 else "\n  ".join([f"{label} has {len(lines)} mistakes:", *lines]))
    recipe._about = about
    return recipe


Mistake = tuple[KeyPath, str]


def _place(path: KeyPath, places: Places, label: str) -> Place:
    """Where the key stands, or the nearest group around it."""
    known = (path[:depth] for depth in range(len(path), 0, -1))
    return next((places[above] for above in known if above in places), Place(0, label))


def _check_method(section: Any, places: Places) -> tuple[Any, list[Mistake]]:
    """The section `method` as `MethodChoice` wants it, and what is wrong with the method's own parameters."""
    if not isinstance(section, dict):
        return section, []
    choice = {"name": section["name"]} if "name" in section else {}
    if not isinstance(choice.get("name"), str):
        return choice, []
    try:
        parameters = method_parameters(choice["name"])
    except UserError as error:
        return choice, [(("method", "name"), str(error))]
    given = {key: value for key, value in section.items() if key != "name"}
    unknown = [key for key in given if key not in parameters]
    mistakes = _unknown_parameters(unknown, choice["name"], parameters, places)
    params: dict[str, Any] = {}
    for key, (annotation, default) in parameters.items():
        value = given.get(key, default)
        if value is Parameter.empty:
            mistakes.append((("method", key), f"method.{key} is missing: the method has no default for it"))
            continue
        try:
            params[key] = TypeAdapter(annotation, config=STRICT).validate_python(value)
        except ValidationError as error:
            mistakes += _mistakes(error, value, ("method", key))
    return {**choice, "params": params}, mistakes


def _unknown_parameters(
    unknown: Sequence[str], method: str, parameters: Iterable[str], places: Places
) -> list[Mistake]:
    """The sentences for keys that the method does not take; one for all that an override of its name left behind."""
    by_override = [key for key in unknown if places.get(("method", key), NOWHERE).order > OVERRIDES]
    left = [key for key in unknown if key not in by_override]
    if places.get(("method", "name"), NOWHERE).order < OVERRIDES or not left:
        by_override, left = list(unknown), []
    known = [f"method.{name}" for name in ("name", *parameters)]
    mistakes: list[Mistake] = [(("method", key), _unknown(f"method.{key}", known)) for key in by_override]
    if left:
        remedy = f"to leave all parameters of the recipe's own method behind, write method={{name: {method}}}"
        mistakes.append((("method", "name"), f"the method {method} has no {' or '.join(left)}; {remedy}"))
    return mistakes


EXPECTED = {
    "float_type": "a number",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "string_type": "text",
    "none_required": "null",
    "list_type": "a list",
    "dict_type": "a group of keys",
    "model_type": "a group of keys",
    "literal_error": "{expected}",
    "finite_number": "a finite number",
    "string_too_short": "a text that is not empty",
    "greater_than_equal": "at least {ge:.10g}",
    "greater_than": "above {gt:.10g}",
    "less_than_equal": "at most {le:.10g}",
    "less_than": "below {lt:.10g}",
}


def _mistakes(error: ValidationError, tree: Any, prefix: KeyPath) -> Iterator[Mistake]:
    """Pydantic's findings as sentences, one for each place: the members of a union complain together."""
    found: dict[KeyPath, list[Any]] = {}
    for item in error.errors(include_url=False):
        path, value = _resolve(item["loc"], tree)
        if item["type"] == "missing":
            path = (*path, item["loc"][-1])
        if item["type"] == "rule" and item["ctx"]["key"]:
            path = (*path, item["ctx"]["key"])
        found.setdefault(prefix + path, []).append((item, value))
    for path, items in found.items():
        yield path, _sentence(path, [item for item, _ in items], items[0][1])


def _resolve(loc: KeyPath, tree: Any) -> tuple[KeyPath, Any]:
    """The path that the document really has, and the value there: pydantic puts names of union members in between."""
    path: KeyPath = ()
    for part in loc:
        if (isinstance(tree, dict) and part in tree) or (isinstance(tree, list) and isinstance(part, int)):
            path, tree = (*path, part), tree[part]  # type: ignore[index]
    return path, tree


def _sentence(path: KeyPath, items: Sequence[Any], value: Any) -> str:
    """What is wrong at one place."""
    key, first = _dotted(path), items[0]
    meaning = _meaning(path)
    if first["type"] == "rule":
        return f"{key} {first['ctx']['predicate']}"
    if first["type"] == "extra_forbidden":
        return _unknown(key, _known(path))
    if first["type"] == "missing":
        return f"{key} is missing" + (f" ({meaning})" if meaning else "")
    wanted = [EXPECTED.get(item["type"], item["msg"]).format(**item.get("ctx", {})) for item in items]
    wanted = [words.replace("'", '"') for words in wanted]
    sentence = f"{key} must be {' or '.join(wanted)}, not {_shown(value)}"
    if wanted == ["text"] and isinstance(value, bool | int | float):
        sentence += ", which in quotes would be text"
    return sentence + (f" ({meaning})" if meaning else "")


def _meaning(path: KeyPath) -> str:
    """The description of a key of the document, "" where it has none."""
    names = {_dotted(path[:1]), _dotted(path[:2])} if path[0] != "views" or len(path) <= 2 else set()
    return next((key.meaning for key in describe() if key.name in names), "")


def _known(path: KeyPath) -> list[str]:
    """The dotted keys that could be meant by an unknown one."""
    if path[0] == "views":
        return [f"{_dotted(path[:-1])}.{key}" for key in Region.model_fields]
    return [*Recipe.model_fields, *(key.name for key in describe() if "." in key.name)]


def _unknown(key: str, known: Sequence[str]) -> str:
    """The sentence for an unknown key: the nearest of the same group, else of all, else what the group has."""
    group, _, leaf = key.rpartition(".")
    siblings = [name for name in known if name.rpartition(".")[0] == group]
    for pool in (siblings, known):
        leaves = {name.rpartition(".")[2]: name for name in pool}
        near = difflib.get_close_matches(leaf, leaves, n=1)
        if near:
            return f"unknown key {key}; did you mean {leaves[near[0]]}?"
    return f"unknown key {key}; {group or 'a recipe'} has {', '.join(name.rpartition('.')[2] for name in siblings)}"


def _dotted(path: KeyPath) -> str:
    """("views", "train", 0) -> "views.train[0]"."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _shown(value: Any) -> str:
    """A value as a recipe could hold it, shortened."""
    return _short(json.dumps(value, ensure_ascii=False))


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


# --- parameters of methods, read without importing them --------------------------------------------------------------


def method_parameters(name: str) -> dict[str, tuple[Any, Any]]:
    """What a recipe may write under `method`: the keyword-only arguments of the class's constructor.

    The source is read, not run. A class without a constructor has its first base's arguments, and a constructor that
    takes `**anything` has them as well.

    Args:
        name: of `METHODS`, or "package.module:Class".

    Returns:
        name -> (type, default); the default is `inspect.Parameter.empty` where there is none.

    Raises:
        UserError: no such method, or a constructor that cannot be read this way.
    """
    if ":" not in name and name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        guess = f"did you mean {near[0]}?" if near else 'a class of your own is written "package.module:Class";'
        raise UserError(f"there is no method {name!r}; {guess} `glmc list methods` names all")
    target: str | None = METHODS.get(name, name)
    parameters: dict[str, tuple[Any, Any]] = {}
    visited: set[str] = set()
    while target and target not in visited:
        visited.add(target)
        try:
            found, base = _class(target)
        except UserError:
            if len(visited) == 1:
                raise
            break  # a base that cannot be read, such as torch's own, adds no keys
        constructor = next((f for f in found.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
        if constructor:
            arguments = zip(constructor.args.kwonlyargs, constructor.args.kw_defaults, strict=True)
            parameters = {a.arg: _parameter(a, default, target) for a, default in arguments} | parameters
        target = None if constructor and constructor.args.kwarg is None else base
    return parameters


def _class(target: str) -> tuple[ast.ClassDef, str | None]:
    """The definition of "package.module:Class" and, in that spelling, its first base if the file says where it is."""
    module, _, name = target.partition(":")
    parts = module.split(".")
    if not all(part.isidentifier() for part in (*parts, name)):
        raise UserError(f'the method {target!r} is not written "package.module:Class"')
    spec = _spec(parts)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise UserError(
            f"the method {target!r} is not there: Python finds no module {module}; "
            "start in the folder that holds it, or name that folder in PYTHONPATH"
        )
    try:
        tree = ast.parse(Path(spec.origin).read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError) as error:
        raise UserError(f"the method {target!r} cannot be read: {spec.origin}: {error}") from error
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if name not in classes:
        raise UserError(f"the method {target!r} is not there: {spec.origin} has {', '.join(classes) or 'no class'}")
    package = module if spec.submodule_search_locations else module.rpartition(".")[0]
    imported = _imported(tree, package) | {defined: f"{module}.{defined}" for defined in classes}
    head, _, rest = ast.unparse(classes[name].bases[0]).partition(".") if classes[name].bases else ("", "", "")
    dotted = ".".join(filter(None, (imported.get(head), rest)))
    return classes[name], ":".join(dotted.rpartition(".")[::2]) if head in imported else None


def _spec(parts: Sequence[str]) -> ModuleSpec | None:
    """Where a module lies; unlike `importlib.util.find_spec` without importing the packages around it."""
    try:
        spec = importlib.util.find_spec(parts[0])
    except ValueError:  # a module without a spec, such as __main__
        return None
    for depth in range(2, len(parts) + 1):
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(".".join(parts[:depth]), spec.submodule_search_locations)
    return spec


def _imported(tree: ast.Module, package: str) -> dict[str, str]:
    """What the imports at the top of a file bind: local name -> full dotted name."""
    bound: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            for a in node.names:  # `import a.b` binds a, `import a.b as c` binds c to a.b
                top = a.name.partition(".")[0]
                bound[a.asname or top] = a.name if a.asname else top
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join(filter(None, (*above, node.module)))
            bound |= {a.asname or a.name: f"{origin}.{a.name}" for a in node.names}
    return bound


def _parameter(argument: ast.arg, default: ast.expr | None, target: str) -> tuple[Any, Any]:
    """Type and default of a keyword-only argument."""
    try:
        return _type(argument.annotation), Parameter.empty if default is None else _plain(default)
    except (ValueError, TypeError, SyntaxError, RecursionError) as error:
        raise UserError(
            f"the method {target!r} cannot be set by a recipe: its argument {argument.arg} needs an annotation of "
            "float, int, bool, str, Literal of texts or X | None, and a default written as a plain value"
        ) from error


def _plain(node: ast.expr) -> Any:
    """The value that a literal spells."""
    value = ast.literal_eval(node)
    if not isinstance(value, str | bool | int | float | NoneType):
        raise ValueError("not a value that a recipe can hold")
    return value


def _type(node: ast.expr | None) -> Any:
    """The type that an annotation spells."""
    simple = {"float": float, "int": int, "bool": bool, "str": str, "None": NoneType}
    if isinstance(node, ast.Name | ast.Constant) and ast.unparse(node) in simple:
        return simple[ast.unparse(node)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _type(node.left) | _type(node.right)
    if isinstance(node, ast.Subscript) and ast.unparse(node.value).rpartition(".")[2] == "Literal":
        choices = tuple(map(_plain, node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]))
        if all(isinstance(choice, str) for choice in choices):
            return Literal[choices]
    raise ValueError("not a type that a recipe can hold")
