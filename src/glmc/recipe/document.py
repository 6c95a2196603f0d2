"""YAML text as plain values that know where they were written, and plain values as YAML text.

Scalars are those of the YAML 1.2 core schema: `5e-3` is a number, and `no`, `on`, `2023-05-15` and `1:30` are text
(PyYAML by itself follows YAML 1.1, where they are not). `key=value` overrides are read alike. A key that stands twice
is a mistake, and all mistakes of a document are told together, in reading order.
"""

import json
import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from glmc import trust
from glmc.errors import UserError

LARGEST_FILE = 1 << 18  # bytes; a recipe has about a thousand, and a picture given by mistake should not be parsed
LARGEST = 1e18  # number: whole ones fit into 64 bits, others and their squares into float32
OVERRIDES = 1 << 32  # larger than the number of any line

KeyPath = tuple[str | int, ...]


class Place(NamedTuple):
    """Where something was written; sorts in reading order, overrides last."""

    order: int  # line of a file, or OVERRIDES + number of the override
    text: str


@dataclass
class Document:
    """Plain values, where they were written, and what is wrong with them."""

    label: str  # what complaints call the whole
    tree: Any
    places: dict[KeyPath, Place] = field(default_factory=dict)
    mistakes: list[tuple[Place, str]] = field(default_factory=list)

    def override(self, assignments: Iterable[str]) -> None:
        """Carries out `key=value` each, the key dotted, the value YAML."""
        for n, assignment in enumerate(assignments, start=1):
            self._assign(assignment, Place(OVERRIDES + n, f"override {_short(assignment)}"))

    def overridden(self, path: KeyPath) -> bool:
        """Whether the key was written by an override."""
        return path in self.places and self.places[path].order > OVERRIDES

    def complain(self, path: KeyPath, sentence: str) -> None:
        """Notes a mistake, at the place of the key or of the nearest group around it."""
        groups = (path[:depth] for depth in range(len(path), 0, -1))
        known = (self.places[group] for group in groups if group in self.places)
        self.mistakes.append((next(known, Place(0, self.label)), sentence))

    def refuse_mistakes(self) -> None:
        """Tells every mistake at once.

        Raises:
            UserError: there is one.
        """
        lines = [f"{place.text}: {sentence}" for place, sentence in sorted(self.mistakes)]
        if len(lines) == 1:
            raise UserError(lines[0])
        if lines:
            raise UserError("\n  ".join([f"{self.label} has {len(lines)} mistakes:", *lines]))

    def _assign(self, assignment: str, place: Place) -> None:
        """Carries out one override."""
        key, equals, text = assignment.partition("=")
        path = tuple(key.strip().split("."))
        if not equals or not all(path):
            self.mistakes.append((place, "an override is written key=value, e.g. train.seed=3"))
            return
        try:
            new = _read(text, place.text, lambda line: place, path)
        except UserError as error:
            self.mistakes.append((place, str(error).removeprefix(f"{place.text}: ")))
            return
        group = self.tree
        for depth, part in enumerate(path[:-1], start=1):
            if group.get(part) is None:
                group[part] = {}
            group = group[part]
            if not isinstance(group, dict):
                above = dotted(path[:depth])
                self.mistakes.append((place, f"{above} holds no keys: set it as a whole, {above}=..."))
                return
        group[path[-1]] = new.tree
        self.mistakes += new.mistakes
        if self.overridden(path):
            self.mistakes.append((place, f"{dotted(path)} is set twice, first by {self.places[path].text}: keep one"))
        self.places = {old: where for old, where in self.places.items() if old[: len(path)] != path} | new.places
        for depth in range(1, len(path)):
            self.places.setdefault(path[:depth], place)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_text(file: str) -> str:
    """The text of a small file in UTF-8; a leading ~ is the home folder.

    Raises:
        UserError: the file cannot be read, or is not such a file.
    """
    try:
        with trust.open_file(os.path.expanduser(file), LARGEST_FILE) as stream:
            raw = stream.read()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"the recipe file {file!r} cannot be read: {reason}; give the recipe's own file") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}:{line}: this is not text in UTF-8: save the recipe in that encoding") from error


def head(text: str) -> str:
    """The comment lines before anything else, without their #."""
    about = []
    for line in text.lstrip().splitlines():
        if not line.lstrip().startswith("#"):
            break
        about.append(line.lstrip()[1:].removeprefix(" ").rstrip())
    return "\n".join(about).strip("\n")


def read(text: str, label: str) -> Document:
    """YAML -> plain values with their lines.

    Args:
        text: the YAML.
        label: what complaints call the text, e.g. the name of its file.

    Raises:
        UserError: the text is not YAML, or more of it than a recipe uses.
    """
    return _read(text, label, lambda line: Place(line, f"{label}:{line}"), ())


def _read(text: str, label: str, at: Callable[[int], Place], path: KeyPath) -> Document:
    """The values below `path`; `at` knows the place of a line, from 1."""
    document = Document(label, None, {path: at(1)})
    line, reason = 1, ""
    try:
        root = yaml.compose(text, Loader=_Loader)
        document.tree = None if root is None else _value(root, path, at, document)
        return document
    except yaml.MarkedYAMLError as error:
        # A bracket or quote that nobody closes is noticed lines later, and mended where it begins.
        opened = ("while parsing a flow", "while scanning a quoted", "while scanning a simple key")
        begins = (error.context or "").startswith(opened)
        mark = error.context_mark if begins else error.problem_mark or error.context_mark
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


def _value(node: yaml.Node, path: KeyPath, at: Callable[[int], Place], document: Document) -> Any:
    """The plain value of a node; notes places and repeated keys on the way."""
    place = document.places.setdefault(path, at(node.start_mark.line + 1))
    if isinstance(node, yaml.ScalarNode):
        _check_text(node.value, place)
        value = _scalar(node.value) if node.tag == "plain" else node.value
        if isinstance(value, int | float) and LARGEST < abs(value) < math.inf:
            document.mistakes.append((place, f"{dotted(path)} is {_short(node.value)}, and {LARGEST:g} is the largest"))
        return value
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, n), at, document) for n, item in enumerate(node.value)]
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = at(key_node.start_mark.line + 1)
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"{place.text}: a key must be a word, not a list or a group")
        key = key_node.value
        _check_text(key, place)
        inner = (*path, key)
        if key in result:
            first = document.places[inner].text
            document.mistakes.append((place, f"{dotted(inner)} is written twice, first at {first}: keep one"))
        document.places[inner] = place
        result[key] = _value(value_node, inner, at, document)
    return result


def _check_text(text: str, place: Place) -> None:
    """Refuses what no file name, screen or UTF-8 file can take."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{place.text}: the text {_short(text)!a} holds a character that cannot be written; remove it")


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


WORDS = {"": None} | dict.fromkeys(("null", "Null", "NULL", "~"))
WORDS |= dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
INTEGER = re.compile(r"[-+]?[0-9]{1,300}|0o[0-7]{1,300}|0x[0-9a-fA-F]{1,300}")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def _scalar(text: str) -> Any:
    """A plain scalar by the YAML 1.2 core schema."""
    if text in WORDS:
        return WORDS[text]
    if INTEGER.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if FLOAT.fullmatch(text):
        return float(text.replace(".inf", "inf").replace(".nan", "nan")) if "n" in text.lower() else float(text)
    return text


# --- writing ----------------------------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Quotes text that either YAML 1.1 or YAML 1.2 would read as something else."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(f"^({INTEGER.pattern})$"), list("-+0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^({FLOAT.pattern})$"), list("-+.0123456789"))


def write(tree: dict[str, Any], about: str) -> str:
    """Plain values -> YAML below a head of comment lines; `read` gives the values back, `head` the comment."""
    representer = yaml.representer.SafeRepresenter(default_flow_style=True, sort_keys=False)
    root = representer.represent_data(tree)
    for node in (root, *(value for _, value in root.value)):
        node.flow_style = isinstance(node, yaml.SequenceNode)  # two levels of lines, everything below within a line
    comment = "".join(f"# {line}".rstrip() + "\n" for line in about.splitlines())
    return comment + yaml.serialize(root, Dumper=_Dumper, allow_unicode=True, width=120)


def assigned(key: str, text: str) -> str:
    """`key=value` whose value is read as this text, in quotes where it would be read as something else.

    >>> assigned("data.root", "photos"), assigned("data.root", "2024")
    ('data.root=photos', 'data.root="2024"')
    """
    try:
        plain = read(text, key).tree == text
    except UserError:
        plain = False
    return f"{key}={text if plain else json.dumps(text, ensure_ascii=False)}"


def dotted(path: KeyPath) -> str:
    """("views", "train", 0) -> "views.train[0]"."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def shown(value: Any) -> str:
    """A value as a recipe could hold it, shortened to one line."""
    return _short(json.dumps(value, ensure_ascii=False))


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
