"""What pydantic finds wrong with a recipe, in sentences of one form: the key, what is wrong with it, what it means."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from glmc.recipe.document import KeyPath, dotted, shown
from glmc.recipe.views import OPERATIONS

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
    "too_short": "a list that is not empty",
    "greater_than_equal": "at least {ge:.10g}",
    "greater_than": "above {gt:.10g}",
    "less_than_equal": "at most {le:.10g}",
    "less_than": "below {lt:.10g}",
}

ELSEWHERE = {  # what other programs call a key
    "arch": "model.name",
    "backbone": "model.name",
    "network": "model.name",
    "batch": "data.batch_size",
    "bs": "data.batch_size",
    "dataset": "data.name",
    "path": "data.root",
    "image_size": "data.size",
    "img_size": "data.size",
    "imgsz": "data.size",
    "optimizer": "optim.name",
    "learning_rate": "optim.lr",
    "wd": "optim.weight_decay",
    "scheduler": "train.schedule",
    "amp": "train.precision",
    "gpu": "train.device",
    "patience": "eval.stop_after",
}


def complaints(
    error: ValidationError, tree: Any, meanings: Mapping[str, str], prefix: KeyPath = ()
) -> Iterator[tuple[KeyPath, str]]:
    """Path and sentence, one for each place: the members of a union complain together.

    Args:
        error: of pydantic.
        tree: what was validated.
        meanings: dotted key -> description, of all keys that a recipe can have.
        prefix: path of `tree` in the document.
    """
    found: dict[KeyPath, list[Any]] = {}
    values: dict[KeyPath, Any] = {}
    for item in error.errors(include_url=False):
        path, value = _resolve(item["loc"], tree)
        if item["type"] == "missing":
            path = (*path, item["loc"][-1])
        if item["type"] == "rule" and item["ctx"]["key"]:
            path = (*path, item["ctx"]["key"])
        found.setdefault(prefix + path, []).append(item)
        values.setdefault(prefix + path, value)
    for path, items in found.items():
        yield path, _sentence(path, items, values[path], meanings)


def unknown(key: str, known: Sequence[str], value: Any = None) -> str:
    """The sentence for an unknown key: the one that was meant, with the value given to it, else what there is."""
    group = key.rpartition(".")[0]
    near = meant(key, known)
    if near is not None:
        given = f"={value if isinstance(value, str) else shown(value)}" if _settable(near, value) else ""
        return f"unknown key {key}; did you mean {near}{given}?"
    siblings = [name for name in known if name.rpartition(".")[0] == group]
    return f"unknown key {key}; {group or 'a recipe'} has {', '.join(name.rpartition('.')[2] for name in siblings)}"


def meant(key: str, known: Sequence[str]) -> str | None:
    """The key that an unknown one stands for, or none.

    One of the same last name, else what other programs call so, else the nearest of the same group, else of all.
    """
    group, _, leaf = key.rpartition(".")
    leaves = {name.rpartition(".")[2]: name for name in reversed(known)}  # of several, the first
    if leaf in leaves:
        return leaves[leaf]
    if ELSEWHERE.get(leaf) in known:
        return ELSEWHERE[leaf]
    siblings = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == group}
    for pool in (siblings, leaves):
        near = difflib.get_close_matches(leaf, pool, n=1)
        if near:
            return pool[near[0]]
    return None


def _settable(key: str, value: Any) -> bool:
    """Whether a value is worth repeating behind a key: not that of a whole section, and no group or list."""
    return "." in key and isinstance(value, str | int | float)


def _resolve(loc: KeyPath, tree: Any) -> tuple[KeyPath, Any]:
    """The path that the document really has, and the value there: pydantic puts names of union members in between."""
    path: KeyPath = ()
    for part in loc:
        if (isinstance(tree, dict) and part in tree) or (isinstance(tree, list) and isinstance(part, int)):
            path, tree = (*path, part), tree[part]  # type: ignore[index]
    return path, tree


def _sentence(path: KeyPath, items: Sequence[Any], value: Any, meanings: Mapping[str, str]) -> str:
    """What is wrong at one place."""
    key, first = dotted(path), items[0]
    if first["type"] == "rule":
        return f"{key} {first['ctx']['predicate']}"
    meaning = _meaning(path, meanings)
    if first["type"] == "extra_forbidden" and len(path) == 3 and path[0] != "views":  # its group's meaning names all
        return f"unknown key {key}{meaning}"
    if first["type"] == "extra_forbidden":
        return unknown(key, _known(path, meanings), value if len(path) == 1 else None)
    if first["type"] == "missing":
        return f"{key} is missing{meaning}"
    wanted = [EXPECTED.get(item["type"], item["msg"]).format(**item.get("ctx", {})) for item in items]
    words = " or ".join(wanted).replace("'", '"')
    sentence = f"{key} must be {words}, not {shown(value)}"
    if first["type"] == "model_type" and isinstance(value, str) and f"{key}.name" in meanings:
        sentence += f"; did you mean {key}.name={value}?"
    if wanted == ["text"] and isinstance(value, bool | int | float):
        sentence += ", which in quotes would be text"
    return sentence + meaning


def _meaning(path: KeyPath, meanings: Mapping[str, str]) -> str:
    """The description of a key of the document in brackets, "" where it has none."""
    if path[0] == "views" and len(path) > 2:
        return ""
    meaning = meanings.get(dotted(path[:1])) or meanings.get(dotted(path[:2]))
    return f" ({meaning})" if meaning else ""


def _known(path: KeyPath, meanings: Mapping[str, str]) -> list[str]:
    """The dotted keys that could be meant by an unknown one."""
    if path[0] == "views":
        fields = OPERATIONS[str(path[-2])].model_fields[str(path[-2])].annotation.model_fields  # type: ignore[union-attr]
        return [f"{dotted(path[:-1])}.{key}" for key in fields]
    sections = dict.fromkeys(name.partition(".")[0] for name in meanings)
    return [*sections, *(name for name in meanings if "." in name)]
