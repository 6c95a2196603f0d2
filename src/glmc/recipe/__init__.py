"""A recipe: everything a run depends on, in one typed document of YAML.

Every key is known: an unknown, repeated, missing or ill-typed one is refused with its line and the nearest right one,
and all mistakes are told together. The keys are in `glmc.recipe.sections` and `glmc.recipe.views`; those under
`method`, `loss` and `mixture` are the keyword-only arguments of the classes that these name, see `glmc.recipe.choice`.
Torch is loaded only to look at these classes, once everything else is right.
"""

import copy
import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar, Union, get_args, get_origin

from pydantic import Field, PrivateAttr, ValidationError, model_validator
from pydantic.fields import FieldInfo

from glmc.errors import UserError
from glmc.methods import USUAL
from glmc.recipe.base import Section, rule
from glmc.recipe.choice import TABLES, check_name, chosen, complete, meanings, nested, settings
from glmc.recipe.complaints import complaints
from glmc.recipe.document import Document, head, read, read_text, write
from glmc.recipe.packaged import names, text_of
from glmc.recipe.sections import (
    Choice,
    Data,
    Eval,
    Expect,
    Model,
    Optim,
    Published,
    SettledData,
    SettledTrain,
    Train,
)
from glmc.recipe.systems import composable, onto
from glmc.recipe.views import FORMS, Views, in_pixels

R = TypeVar("R", bound="Recipe")
StageWords = Annotated[str, Field(min_length=1)]  # what would stand behind `glmc finetune RUN --stage2`


class Recipe(Section):
    """A whole recipe. Sections stand in the order in which a reader asks for them."""

    name: str = Field(min_length=1, description="dataset/method; of a file of your own, its name")
    parent: str | None = Field(
        None, min_length=1, description="trained run that this one starts from; null: from scratch"
    )
    starts_from: Literal["backbone", "all", "rows"] | None = Field(
        None,
        description="what is taken over from the parent: its backbone, or its classifier, too, or of that the rows of "
        "its classes, to which others have come (`glmc extend`); null: no parent",
    )
    then: StageWords | Annotated[list[StageWords], Field(min_length=1)] | None = Field(
        None,
        description="second stage that follows, of `glmc list stages`, perhaps with values of its own, as in `lws "
        "train.epochs=5`; a list: stages one after the other; null: none",
    )
    published: Published | None = None
    expect: Expect | None = None
    data: Data
    views: Views = Field(description=f"augmentations by name, each a list of {FORMS}; train and test must be there")
    model: Model
    method: Choice
    loss: Choice
    mixture: Choice
    optim: Optim
    train: Train
    eval: Eval = Eval.model_validate({})

    _about: str = PrivateAttr("")
    _written: dict[str, Any] = PrivateAttr(default_factory=dict)  # what was said, before it was completed

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.parent is None) != (self.starts_from is None):
            raise rule("starts_from", "says what is taken over from parent: give both, or neither")
        return self

    def __eq__(self, other: object) -> bool:
        """Whether two recipes say the same, however much of it was written down."""
        return isinstance(other, Recipe) and (self.model_dump(), self.about) == (other.model_dump(), other.about)

    @property
    def about(self) -> str:
        """The comment at the head of the recipe: what it is, where its values come from, how to run it."""
        return self._about

    @property
    def system(self) -> str:
        """What is trained, in a few words: method, loss and mixture, e.g. "logit_adjusted + cutmix"."""
        usual = ("supervised", None, "none")
        inner = self.loss.params.get("loss")  # of a loss made from another
        loss = f"{self.loss.name}({inner['name']})" if isinstance(inner, dict) else self.loss.name
        names = (self.method.name, loss, self.mixture.name)
        return " + ".join(name for name, plain in zip(names, usual, strict=True) if name != plain)

    @property
    def later(self) -> list[str]:
        """The stages that `then` names, in order, each perhaps with values of its own."""
        return [self.then] if isinstance(self.then, str) else self.then or []

    @property
    def title(self) -> str:
        """The system and its network, e.g. "glmc + class_weighted + mixup_cutmix on resnet32"."""
        return f"{self.system} on {self.model.name}"

    def override(self, *assignments: str) -> Self:
        """A recipe with some values replaced, e.g. `recipe.override("train.seed=3")`; checked as `load` checks.

        Raises:
            UserError: an assignment is not `key=value`, or the result is not a right recipe.
        """
        tree = copy.deepcopy(self._written) or self.model_dump()
        for section in TABLES:  # a setting that nobody chose must not stand in the way of another name
            if "name" in tree.get(section, {}):
                tree[section] = chosen(section, tree[section])
        return _build(Document(f"recipe {self.name}", tree), assignments, self.about, type(self))

    def settle(self, data: Mapping[str, Any], train: Mapping[str, Any]) -> "Settled":
        """The recipe with what it left open filled in: values of `data` and of `train`, and crops in pixels."""
        tree = self.model_dump()
        values = {**tree, "data": tree["data"] | data, "train": tree["train"] | train}
        values["views"] = in_pixels(self.views, values["data"]["size"])
        return _build(Document(f"recipe {self.name}", values), (), self.about, Settled)

    def to_yaml(self) -> str:
        """The complete document, defaults written out; `load` reads it back equal."""
        return write(self.model_dump(), self.about)


class Settled(Recipe):
    """A recipe of which the data and the machine have been seen: size, channels, normalisation, precision are known."""

    data: SettledData
    train: SettledTrain


def load(name_or_file: str, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe.

    Args:
        name_or_file: one of `names()`, "<data set>/<system>" with any of `glmc list systems`, or a YAML file.
        overrides: "key=value" each; the key dotted, the value YAML, e.g. "train.seed=3", "method={name: ce}".

    Raises:
        UserError: no such recipe, or mistakes in it or in the overrides: all of them, each with its place.
    """
    if name_or_file in names():
        text, name, label = text_of(name_or_file), name_or_file, f"{name_or_file}.yaml"
    elif name_or_file in composable():
        data, _, system = name_or_file.partition("/")
        return compose(f"{data}/ce", system, overrides)
    else:
        text, name, label = _text_of(name_or_file), Path(name_or_file).stem, name_or_file
    return parse(text, overrides, name=name, label=label)


def compose(base: str, system: str, overrides: Sequence[str] = ()) -> Recipe:
    """A system carried out on the images of another recipe, see `glmc.recipe.systems.onto`.

    Args:
        base: packaged recipe of plain cross entropy, e.g. "folder/ce".
        system: of `glmc list systems`.
        overrides: as for `load`.

    Raises:
        UserError: mistakes in the overrides.
    """
    document, about = onto(base, system)
    return _build(document, overrides, about, Recipe)


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
    return _parse(text, overrides, name, label, Recipe)


def parse_settled(text: str, overrides: Sequence[str] = ()) -> Settled:
    """Reads the recipe that a checkpoint carries, which says all that its run had found out.

    Raises:
        UserError: see `parse`; also where an override leaves open what was known.
    """
    return _parse(text, overrides, "", "recipe", Settled)


def _parse(text: str, overrides: Sequence[str], name: str, label: str, kind: type[R]) -> R:
    document = read(text, label)
    if not isinstance(document.tree, dict):
        raise UserError(f"{label} holds no recipe: write sections such as `data: {{name: digits}}`")
    document.tree = {"name": name, **document.tree}
    return _build(document, overrides, head(text), kind)


def _text_of(file: str) -> str:
    """The text of a user's recipe file."""
    path = os.path.expanduser(file)
    if os.path.isdir(path) or not (path.endswith((".yaml", ".yml")) or os.path.exists(path)):
        known = [*names(), *composable()]
        near = [name for name in known if name.endswith(f"/{file}")]
        near = sorted(near, key=lambda name: not name.startswith("folder/"))  # most people have images of their own
        near = near or difflib.get_close_matches(file, [*known, *set(_folders()) - {file}], n=3, cutoff=0.4)
        guess = f"did you mean {' or '.join(near)}? " if near else ""
        raise UserError(
            f"there is no recipe or folder {file!r}; {guess}`glmc list recipes` names all, and a file of your own ends "
            "in .yaml"
        )
    return read_text(file)


def _folders() -> list[str]:
    """The folders in the working directory, which may hold the images that were meant."""
    return [entry.name for entry in os.scandir() if entry.is_dir() and not entry.name.startswith(".")]


def _build(document: Document, overrides: Sequence[str], about: str, kind: type[R]) -> R:
    """Checks a document with the overrides on top, and tells every mistake at once.

    What needs no torch comes first, so that a wrong recipe is refused at once; then the settings of method, loss and
    mixture, which their classes know.
    """
    document.override(overrides)
    written = copy.deepcopy(document.tree)
    _name_the_usual(document.tree)
    tree = dict(document.tree)
    for section in TABLES:
        if isinstance(tree.get(section), dict):
            tree[section] = _chosen(document, section)
    try:
        recipe = kind.model_validate(tree)
    except ValidationError as error:
        for path, sentence in complaints(error, document.tree, _meanings()):
            document.complain(path, sentence)
    document.refuse_mistakes()
    whole = {}
    for section in TABLES:
        given = getattr(recipe, section).model_dump()
        params = complete(document, section, given, (section,), _meanings())
        whole[section] = Choice(name=params.pop("name"), params=params)
    document.refuse_mistakes()
    recipe = recipe.model_copy(update=whole)
    recipe._about, recipe._written = _described(recipe.name, about, overrides), written
    return recipe


def _described(name: str, about: str, overrides: Sequence[str]) -> str:
    """The head comment of a recipe with overrides: its own only where these leave what it describes as it was."""
    if any(assignment.startswith("name=") for assignment in overrides):
        return name
    keys = [assignment.partition("=")[0] for assignment in overrides if changed([assignment])]
    if not keys:
        return about
    start = f"{name} with other values of "
    before = about.removeprefix(start).split(", ") if about.startswith(start) else []
    return start + ", ".join(sorted({*before, *keys}))


def _name_the_usual(tree: dict[str, Any]) -> None:
    """Loss and mixture of a recipe that does not name them: those that its method usually goes with."""
    method = tree.get("method")
    usual = USUAL.get(str(method.get("name")), {}) if isinstance(method, dict) else {}
    for section, plain in (("loss", "cross_entropy"), ("mixture", "none")):
        if isinstance(tree.setdefault(section, {}), dict):
            tree[section] = {"name": usual.get(section, plain), **tree[section]}


def _chosen(document: Document, section: str) -> dict[str, Any]:
    """A section of a table as `Choice` wants it; complains about an unknown name."""
    given = dict(document.tree[section])
    choice = {"name": given.pop("name")} if "name" in given else {}
    if isinstance(choice.get("name"), str):
        try:
            check_name(section, choice["name"])
        except UserError as error:
            document.complain((section, "name"), str(error))
    return {**choice, "params": given}


def _meanings() -> dict[str, str]:
    return {key.name: key.meaning for key in describe()}


# --- what makes another recipe ----------------------------------------------------------------------------------------


def _section(annotation: Any) -> type[Section] | None:
    """The section among `annotation` and what it is a union of."""
    members = [m for m in (annotation, *get_args(annotation)) if isinstance(m, type) and issubclass(m, Section)]
    return members[0] if members else None


def _harmless() -> Iterator[str]:
    """The dotted names of the keys and sections whose type is `Harmless`."""
    for name, field in Recipe.model_fields.items():
        section = _section(field.annotation)
        inner = {f"{name}.{key}": f for key, f in section.model_fields.items()} if section else {}
        yield from (key for key, f in {name: field, **inner}.items() if "harmless" in f.metadata)


HARMLESS = frozenset(_harmless()) | {"parent"}
"""Keys that may change when a run is resumed: what comes out does not depend on them, or, as on the parent, no more."""
# Runs that differ only in these are runs of one recipe; whose parents must be alike is for the caller to see.
SAME_RECIPE = HARMLESS | {"name", "published", "expect", "train.seed"}


def changed(overrides: Iterable[str]) -> bool:
    """Whether assignments make another recipe, whose figures need not be those of the one they override."""
    return any(assignment.partition("=")[0] not in SAME_RECIPE for assignment in overrides)


def on_batch_size(name_or_file: str, overrides: Sequence[str]) -> str:
    """What another batch size does to the learning rate, in a sentence; empty if none is given, or both are."""
    batch = [value for value in overrides if value.startswith("data.batch_size=")]
    if not batch or any(value.startswith(("optim.lr=", "optim=")) for value in overrides):
        return ""
    usual, given = (load(name_or_file, values) for values in ([v for v in overrides if v not in batch], overrides))
    times = given.data.batch_size / usual.data.batch_size
    if times == 1:
        return ""
    lr, sgd = usual.optim.lr, given.optim.name == "sgd"
    rule = "with the batch (Goyal et al. 2017)" if sgd else "with the root of the batch (Malladi et al. 2022)"
    return (
        f"{batch[-1]} instead of the recipe's {usual.data.batch_size}, and optim.lr stays {lr:g}; the learning rate of "
        f"{given.optim.name} usually grows {rule}: optim.lr={lr * (times if sgd else times**0.5):.2g}"
    )


def essence(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The values that make a recipe the one it is, by their dotted names.

    Args:
        settings: sections, keys and values.
    """
    values = _flat({key: value for key, value in settings.items() if key not in SAME_RECIPE})
    return {name: value for name, value in values.items() if name not in SAME_RECIPE}


def differences(first: Recipe, second: Recipe) -> Iterator[tuple[str, Any, Any]]:
    """What lets two recipes come out differently: the dotted name of a key, and the value of each (None: has none)."""
    ours, theirs = _flat(first.model_dump()), _flat(second.model_dump())
    for key in {**ours, **theirs}:
        told = HARMLESS | {"name", "published", "expect"}
        if key not in told and key.partition(".")[0] not in told and ours.get(key) != theirs.get(key):
            yield key, ours.get(key), theirs.get(key)


def continues(wanted: Recipe, found: Recipe) -> bool:
    """Whether a run's recipe is what became of another: the same values where images and machine do not decide them."""

    def open_values(section: str, keys: Sequence[str]) -> dict[str, Any]:
        asked, settled = getattr(wanted, section), getattr(found, section)
        return {key: getattr(settled, key) for key in keys if getattr(asked, key) in (None, "auto")}

    if found.data.size is None:  # the run ended before its images were seen
        return wanted == found
    data = open_values("data", ("size", "channels", "mean", "std", "bits"))
    return not any(differences(wanted.settle(data, open_values("train", ("precision", "step"))), found))


def same_images(first: Recipe, second: Recipe) -> bool:
    """Whether two recipes take the same files of a data set for training, validation and test."""
    beside = {
        f"data.{key}" for key in ("size", "channels", "mean", "std", "area", "resize", "exif", "bits", "batch_size")
    }
    return not any(key.startswith("data.") and key not in beside for key, *_ in differences(first, second))


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """{"data": {"size": 32}} -> {"data.size": 32}; lists stay as they are."""
    values: dict[str, Any] = {}
    for key, value in settings.items():
        values |= _flat(value, f"{before}{key}.") if isinstance(value, dict) and value else {f"{before}{key}": value}
    return values


# --- keys for people --------------------------------------------------------------------------------------------------


class Key(NamedTuple):
    """One key of a recipe, for people."""

    name: str  # dotted, e.g. "train.seed"
    kind: str  # e.g. "whole number or null, at least 1"
    default: Any  # inspect.Parameter.empty where the key must be given
    meaning: str  # with unit and range
    choices: tuple[Any, ...] = ()  # all that it may be, where that can be listed


def describe() -> list[Key]:
    """Every key of every recipe in document order; what their classes add to `TABLES` is told by `settings`."""
    keys = []
    for name, field in Recipe.model_fields.items():
        section = _section(field.annotation)
        inner = {f"{name}.{k}": f for k, f in section.model_fields.items()} if section else {name: field}
        for dotted, f in inner.items():
            default = Parameter.empty if f.is_required() else f.default
            allowed = ", ".join(filter(None, [kind(f.annotation), bounds(f)]))
            keys.append(Key(dotted, allowed, default, f.description or "", choices(f.annotation)))
    return [key for key in keys if not key.name.endswith(".params")]


def explained(recipe: Recipe) -> list[tuple[Key, Any]]:
    """Every key of a recipe with the value that it has there, the settings of its classes included."""
    tree, keys = recipe.model_dump(), []
    for key in describe():
        section, _, inner = key.name.partition(".")
        value: Any = tree[section] if not inner else (tree[section] or {}).get(inner)
        keys.append((key, value))
        if inner == "name" and section in TABLES:
            meaning = meanings(section, value)
            for name, (annotation, default) in settings(section, value).items():
                allowed = "loss or null" if nested(annotation) else kind(annotation)
                about = Key(f"{section}.{name}", allowed, default, meaning.get(name, ""))
                keys.append((about, tree[section][name]))
    return keys


def bounds(field: FieldInfo) -> str:
    """The range of a key's numbers in words, e.g. "above 0, at most 1"; empty if there is none."""
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    return ", ".join(
        f"{words[name]} {getattr(limit, name)}" for limit in field.metadata for name in words if hasattr(limit, name)
    )


def choices(annotation: Any) -> tuple[Any, ...]:
    """The words among what a type allows: Literal["a", "b"] | None -> ("a", "b", None)."""
    if annotation in (bool, NoneType):
        return (True, False) if annotation is bool else (None,)
    inner = get_args(annotation)
    if get_origin(annotation) is Literal:
        return inner
    found = [choices(member) for member in inner] if get_origin(annotation) in (Union, UnionType) else []
    return tuple(value for values in found for value in values)


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
    if origin is list:
        return f"list of {kind(inner[0])}" + ("s" if get_origin(inner[0]) is not Literal else "")
    return "lists by name"
