"""What a recipe may write under `method`: the keyword-only arguments of the method's constructor.

They are read from its source file without running it, because importing a method would import torch.
"""

import ast
import difflib
import importlib.util
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from inspect import Parameter
from pathlib import Path
from types import NoneType
from typing import Any, Literal

from glmc.errors import UserError
from glmc.methods import METHODS


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
    bound = _imported(tree, package) | {defined: f"{module}.{defined}" for defined in classes}
    return classes[name], _base(classes[name], bound)


def _base(definition: ast.ClassDef, bound: dict[str, str]) -> str | None:
    """The first base of a class as "package.module:Class"; None where the names `bound` in its file do not tell."""
    if not definition.bases:
        return None
    head, dot, rest = ast.unparse(definition.bases[0]).partition(".")
    if head not in bound:
        return None
    module, _, name = f"{bound[head]}{dot}{rest}".rpartition(".")
    return f"{module}:{name}"


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
