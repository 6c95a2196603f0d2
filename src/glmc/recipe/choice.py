"""The one mechanism behind `method`, `loss` and `mixture`: a name from a table, and the constructor's own settings.

`name` is a row of the table, or "package.module:Class"; the other keys of the section are the keyword-only arguments of
the class. Names are checked without loading torch; the arguments by looking at the class, which loads it.
"""

import difflib
import importlib
import inspect
import re
from collections.abc import Mapping
from functools import cache
from inspect import Parameter
from typing import Any, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from glmc.errors import UserError
from glmc.losses import LOSSES
from glmc.methods import METHODS
from glmc.mixtures import MIXTURES
from glmc.recipe.complaints import complaints, unknown
from glmc.recipe.document import Document, KeyPath
from glmc.trust import allow_name, allowed, imported

TABLES = {"method": METHODS, "loss": LOSSES, "mixture": MIXTURES}  # section -> its names
BASES = {
    "method": "glmc.methods.base:Method",
    "loss": "glmc.losses.base:Loss",
    "mixture": "glmc.mixtures.base:Mixture",
}
LISTS = {"method": "methods", "loss": "losses", "mixture": "mixtures"}  # what `glmc list` calls them
CONFIG = ConfigDict(strict=True, allow_inf_nan=False)


def check_name(section: str, name: str) -> None:
    """Refuse a name that is in no table and has not the form of a class of one's own. No torch.

    Raises:
        UserError: names the nearest.
    """
    if name in TABLES[section]:
        return
    module, colon, kind = name.partition(":")
    if not colon:
        near = difflib.get_close_matches(name.lower(), TABLES[section], n=1)
        guess = f"did you mean {near[0]}?" if near else 'a class of your own is written "package.module:Class";'
        raise UserError(f"there is no {section} {name!r}; {guess} `glmc list {LISTS[section]}` names all")
    if not all(part.isidentifier() for part in (*module.split("."), kind)):
        raise UserError(f'the {section} {name!r} is not written "package.module:Class"')


@cache
def class_of(section: str, name: str) -> type:
    """The class behind a name.

    Raises:
        UserError: it may not or cannot be imported, or is not of that kind.
    """
    check_name(section, name)
    if name not in TABLES[section] and not allowed(name):
        raise UserError(
            f"the {section} {name!r} is code, which no recipe may start by itself: add --code DIR, the folder that "
            "holds it, or --trust if it is installed and you trust where the recipe comes from"
        )
    module, _, kind = TABLES[section].get(name, name).partition(":")
    try:
        home = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UserError(f"the {section} {name!r} cannot be imported: it needs {error.name}") from error
        raise UserError(
            f"the {section} {name!r} is not there: Python finds no module {module}; give the folder that "
            "holds it with --code DIR"
        ) from error
    except Exception as error:  # whatever a user's own file does when it is imported
        raise UserError(f"the {section} {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    found = getattr(home, kind, None)
    if name not in TABLES[section]:
        imported(home.__file__)
    if not (isinstance(found, type) and issubclass(found, base_of(section))):
        raise UserError(f"the {section} {name!r} is not there: {module} has no subclass of {BASES[section]} so called")
    return found


def base_of(section: str) -> type:
    """What the classes of a table are subclasses of."""
    module, _, name = BASES[section].partition(":")
    base: type = getattr(importlib.import_module(module), name)
    return base


@cache
def settings(section: str, name: str) -> Mapping[str, tuple[Any, Any]]:
    """What a recipe may write beside the name: key -> (type, default), `inspect.Parameter.empty` where there is none.

    A constructor that takes `**anything` has the keys of the next class above it as well.

    Raises:
        UserError: see `class_of`; or an argument without a type that a recipe can hold.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for kind in class_of(section, name).__mro__:
        if "__init__" not in vars(kind):
            continue
        parameters = inspect.signature(vars(kind)["__init__"], eval_str=True).parameters.values()
        own = {p.name: (p.annotation, p.default) for p in parameters if p.kind is Parameter.KEYWORD_ONLY}
        found = {**own, **found}
        if not any(p.kind is Parameter.VAR_KEYWORD for p in parameters):
            break
    for key, (annotation, _) in found.items():
        if annotation is Parameter.empty:
            raise UserError(f"the {section} {name!r} cannot be set by a recipe: its argument {key} has no type")
        try:
            nested(annotation) or adapter(annotation)
            if dict in (annotation, get_origin(annotation)):
                raise PydanticSchemaGenerationError("a group of keys is a loss or a mixture here")
        except PydanticSchemaGenerationError as error:
            raise UserError(
                f"the {section} {name!r} cannot be set by a recipe: its argument {key} is a {annotation}, and a recipe "
                "holds numbers, text, true and false, null, lists and losses"
            ) from error
    return found


def meanings(section: str, name: str) -> dict[str, str]:
    """Setting -> meaning, out of the docstrings of a class and those above it; several settings may share one."""
    found: dict[str, str] = {}
    for kind in reversed(class_of(section, name).__mro__):
        arguments = inspect.cleandoc((inspect.getdoc(kind) or "").partition("\n\nArgs:")[2])
        for names, text in re.findall(r"^(\w+(?:, \w+)*): (.*(?:\n +.*)*)", arguments, re.M):
            found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found


@cache
def adapter(annotation: Any) -> TypeAdapter[Any]:
    """What checks values of a type, as strictly as the sections do."""
    return TypeAdapter(annotation, config=CONFIG)


def nested(annotation: Any) -> str | None:
    """The section that an argument is like, if its type is a loss or a mixture, perhaps or None."""
    kinds = (annotation, *get_args(annotation))
    return next((section for section in ("loss", "mixture") if base_of(section) in kinds), None)


def chosen(section: str, whole: Mapping[str, Any]) -> dict[str, Any]:
    """Name and settings of a complete section, without those that are as the class has them by default."""
    known = settings(section, whole["name"])
    return {key: value for key, value in whole.items() if key not in known or value != known[key][1]}


def complete(
    document: Document, section: str, given: Mapping[str, Any], path: KeyPath, meanings: Mapping[str, str]
) -> dict[str, Any]:
    """A section with every setting of its class, defaults included; complains to the document about what is wrong.

    Args:
        document: whose places the complaints name.
        section: "method", "loss" or "mixture".
        given: the section as written; its name has been checked.
        path: of the section in the document.
        meanings: see `complaints`.
    """
    name, dotted = given["name"], ".".join(map(str, path))
    if name not in TABLES[section] and document.overridden((*path, "name")):
        allow_name(name)  # the user's own words
    try:
        known = settings(section, name)
    except UserError as error:
        document.complain((*path, "name"), str(error))
        return dict(given)
    _refuse_unknown(document, [key for key in given if key not in ("name", *known)], section, name, path)
    whole: dict[str, Any] = {"name": name}
    for key, (annotation, default) in known.items():
        value, inner = given.get(key, default), (*path, key)
        if value is Parameter.empty:
            document.complain(inner, f"{dotted}.{key} is missing: the {section} has no default for it")
        elif nested(annotation) and isinstance(value, dict):
            whole[key] = _complete_nested(document, str(nested(annotation)), value, inner, meanings)
        elif nested(annotation) and value is not None:
            document.complain(inner, f"{dotted}.{key} must be a group of keys, e.g. {{name: cross_entropy}}")
        elif nested(annotation):
            whole[key] = None
        else:
            try:
                whole[key] = adapter(annotation).validate_python(value)
            except ValidationError as error:
                for place, sentence in complaints(error, value, meanings, inner):
                    document.complain(place, sentence)
    if section != "method" and not document.mistakes:  # a method needs a network first
        _refuse_ranges(document, section, whole, path)
    return whole


def _refuse_ranges(document: Document, section: str, whole: Mapping[str, Any], path: KeyPath) -> None:
    """Complains about values that the class itself refuses, seen on classes of 10 to 1 images."""
    import torch

    counts = torch.arange(10, 0, -1)
    try:
        class_of(section, whole["name"])(counts, **_arguments(section, whole, counts))
    except ValueError as error:
        named = str(error).partition(" ")[0] in whole  # most sentences begin with the setting that is wrong
        document.complain(path, f"{'.'.join(map(str, path))}{'.' if named else ': '}{error}")


def _complete_nested(
    document: Document, section: str, given: Mapping[str, Any], path: KeyPath, meanings: Mapping[str, str]
) -> dict[str, Any]:
    if "name" not in given:
        document.complain(path, f"{'.'.join(map(str, path))}.name is missing (of `glmc list {LISTS[section]}`)")
        return dict(given)
    try:
        check_name(section, str(given["name"]))
    except UserError as error:
        document.complain((*path, "name"), str(error))
        return dict(given)
    return complete(document, section, given, path, meanings)


def _refuse_unknown(document: Document, keys: list[str], section: str, name: str, path: KeyPath) -> None:
    """Complains about keys that a class does not take; once about all that an override of its name left behind."""
    dotted = ".".join(map(str, path))
    renamed = document.overridden((*path, "name"))
    left = [key for key in keys if renamed and not document.overridden((*path, key))]
    known = [f"{dotted}.{key}" for key in ("name", *settings(section, name))]
    for key in keys:
        if key not in left:
            document.complain((*path, key), unknown(f"{dotted}.{key}", known))
    if left:
        remedy = f"to leave all of the recipe's own settings behind, write {dotted}={{name: {name}}}"
        document.complain((*path, "name"), f"the {section} {name} has no {' or '.join(left)}; {remedy}")


def build(section: str, chosen: Mapping[str, Any], counts: Any, arguments: tuple[Any, ...] | None = None) -> Any:
    """The object that a complete section describes.

    Args:
        section: "method", "loss" or "mixture".
        chosen: name and settings.
        counts: int64 [C], training images per class.
        arguments: what the constructor takes by position; none: the counts.

    Raises:
        UserError: the settings do not go together, in the words of the class.
    """
    values = _arguments(section, chosen, counts)
    try:
        return class_of(section, chosen["name"])(*(arguments or (counts,)), **values)
    except ValueError as error:
        raise UserError(f"{section}.name={chosen['name']}: {error}") from error


def _arguments(section: str, chosen: Mapping[str, Any], counts: Any) -> dict[str, Any]:
    """The keyword arguments of a complete section, losses and mixtures among them built."""
    known = settings(section, chosen["name"])
    return {
        key: build(str(nested(known[key][0])), value, counts) if isinstance(value, dict) else value
        for key, value in chosen.items()
        if key != "name"
    }
