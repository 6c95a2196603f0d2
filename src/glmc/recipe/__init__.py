"""A recipe: everything a run depends on, in one typed document of YAML. No torch in here.

Every key is known: an unknown, repeated, missing or ill-typed one is refused with its line and the nearest right one,
and all mistakes of a recipe are told together. The keys are in `glmc.recipe.sections`; those under `method` are the
keyword-only arguments of the method's constructor, see `glmc.recipe.choice`.
"""

import difflib
import os
from collections.abc import Iterable, Sequence
from importlib.resources import files
from inspect import Parameter
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import Field, PrivateAttr, TypeAdapter, ValidationError

from glmc.errors import UserError
from glmc.recipe.choice import method_parameters
from glmc.recipe.complaints import complaints, unknown
from glmc.recipe.document import Document, head, read, read_text, write
from glmc.recipe.sections import FORMS, Data, Eval, Expect, MethodChoice, Model, Optim, Published, Section, Train, Views

RECIPES = files("glmc") / "recipes"


HARMLESS = frozenset(
    (
        "data.root",
        "data.download",
        "data.cache",
        "data.loader",
        "data.workers",
        "train.device",
        "train.save_minutes",
        "train.track",
        "parent",
    )
)
"""Keys that do not change what comes out of a run, so that they may change when it is resumed."""


class Recipe(Section):
    """A whole recipe. Sections stand in the order in which a reader asks for them."""

    name: str = Field(min_length=1, description="dataset/method; of a file of your own, its name")
    parent: str | None = Field(
        None, min_length=1, description="run that a second stage starts from; null: from scratch"
    )
    published: Published | None = None
    expect: Expect | None = None
    data: Data
    views: Views = Field(description=f"augmentations by name, each a list of {FORMS}; train and test must be there")
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

    def override(self, *assignments: str) -> "Recipe":
        """A recipe with some values replaced, e.g. `recipe.override("train.seed=3")`; checked as `load` checks.

        Raises:
            UserError: an assignment is not `key=value`, or the result is not a right recipe.
        """
        return _build(Document(f"recipe {self.name}", self.model_dump()), assignments, self.about)

    def to_yaml(self) -> str:
        """The complete document, defaults written out; `load` reads it back equal."""
        return write(self.model_dump(), self.about)


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
        text, name, label = _text_of(name_or_file), Path(name_or_file).stem, name_or_file
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
    document = read(text, label)
    if not isinstance(document.tree, dict):
        raise UserError(f"{label} holds no recipe: write sections such as `data: {{name: digits}}`")
    document.tree = {"name": name, **document.tree}
    return _build(document, overrides, head(text))


def _text_of(file: str) -> str:
    """The text of a user's recipe file."""
    path = os.path.expanduser(file)
    if os.path.isdir(path) or not (path.endswith((".yaml", ".yml")) or os.path.exists(path)):
        near = difflib.get_close_matches(file, names(), n=3, cutoff=0.4)
        guess = f"did you mean {' or '.join(near)}? " if near else ""
        raise UserError(
            f"there is no recipe {file!r}; {guess}`glmc list recipes` names all, and a file of your own ends in .yaml"
        )
    return read_text(file)


def _build(document: Document, overrides: Iterable[str], about: str) -> Recipe:
    """Checks a document with the overrides on top, and tells every mistake at once."""
    document.override(overrides)
    tree = dict(document.tree)
    if isinstance(tree.get("method"), dict):
        tree["method"] = _check_method(document)
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        for path, sentence in complaints(error, document.tree, _meanings()):
            document.complain(path, sentence)
    document.refuse_mistakes()
    recipe._about = about
    return recipe


def _check_method(document: Document) -> dict[str, Any]:
    """The section `method` as `MethodChoice` wants it; complains about the method's own parameters."""
    given = dict(document.tree["method"])
    choice = {"name": given.pop("name")} if "name" in given else {}
    if not isinstance(choice.get("name"), str):
        return choice
    try:
        parameters = method_parameters(choice["name"])
    except UserError as error:
        document.complain(("method", "name"), str(error))
        return choice
    _refuse_unknown(document, [key for key in given if key not in parameters], choice["name"], parameters)
    params: dict[str, Any] = {}
    for key, (annotation, default) in parameters.items():
        value = given.get(key, default)
        if value is Parameter.empty:
            document.complain(("method", key), f"method.{key} is missing: the method has no default for it")
            continue
        try:
            params[key] = TypeAdapter(annotation, config=Section.model_config).validate_python(value)
        except ValidationError as error:
            for path, sentence in complaints(error, value, _meanings(), ("method", key)):
                document.complain(path, sentence)
    return {**choice, "params": params}


def _refuse_unknown(document: Document, keys: Sequence[str], method: str, parameters: Iterable[str]) -> None:
    """Complains about keys that the method does not take; once about all that an override of its name left behind."""
    renamed = document.overridden(("method", "name"))
    left = [key for key in keys if renamed and not document.overridden(("method", key))]
    known = [f"method.{name}" for name in ("name", *parameters)]
    for key in keys:
        if key not in left:
            document.complain(("method", key), unknown(f"method.{key}", known))
    if left:
        remedy = f"to leave all parameters of the recipe's own method behind, write method={{name: {method}}}"
        document.complain(("method", "name"), f"the method {method} has no {' or '.join(left)}; {remedy}")


def _meanings() -> dict[str, str]:
    return {key.name: key.meaning for key in describe()}


# --- keys for people --------------------------------------------------------------------------------------------------


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
    if origin is list:
        return f"list of {kind(inner[0])}" + ("s" if get_origin(inner[0]) is not Literal else "")
    return "lists by name"


def _section(annotation: Any) -> type[Section] | None:
    """The section among `annotation` and what it is a union of."""
    members = [m for m in (annotation, *get_args(annotation)) if isinstance(m, type) and issubclass(m, Section)]
    return members[0] if members else None
