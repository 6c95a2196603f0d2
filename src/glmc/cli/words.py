"""What the commands have in common: kinds of arguments, and how words become a recipe's name and overrides."""

import difflib
from pathlib import Path
from typing import Annotated

import typer

from glmc.cli import app, complete
from glmc.errors import UserError

Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="[RECIPE] [KEY=VALUE]...", show_default=False, autocompletion=complete.words),
]
Images = Annotated[
    list[str] | None,
    typer.Argument(metavar="[FOLDER|LIST] [KEY=VALUE]...", show_default=False, autocompletion=complete.assignments),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", show_default=False, autocompletion=complete.assignments),
]
RunReference = Annotated[
    str, typer.Argument(metavar="RUN", show_default=False, help="Run folder or checkpoint, or hf:user/name.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def split_words(words: list[str] | None) -> tuple[str | None, tuple[str, ...]]:
    """A recipe's name, if the first word is no assignment, and the assignments."""
    words = list(words or ())
    for at, word in enumerate(words):
        if word.startswith("-"):
            refuse_option(word, words[at + 1 : at + 2])
    name = words.pop(0) if words and "=" not in words[0] else None
    for word in words:
        if "=" not in word:
            guess = f"; did you mean data.root={word}?" if Path(word).is_dir() else ""
            raise UserError(f"{word!r} is neither the first word, which names the recipe, nor key=value{guess}")
    return name, tuple(words)


def refuse_option(word: str, following: list[str]) -> None:
    """Refuse an unknown option, with the option or the key=value that was meant.

    Args:
        word: e.g. "--epochs" or "--epochs=3".
        following: the word behind it, if there is one, which may be its value.

    Raises:
        UserError: always.
    """
    from glmc import recipe
    from glmc.recipe.complaints import meant

    option, equals, value = word.partition("=")
    options = [name for parameter in typer.main.get_group(app).commands["train"].params for name in parameter.opts]
    near = difflib.get_close_matches(option, options, n=1)
    key = meant(option.lstrip("-").replace("-", "_"), [key.name for key in recipe.describe() if "." in key.name])
    if not equals and following and not following[0].startswith("-"):
        value = following[0]
    guesses = near or ([f"{key}={value}" if value else key] if key else [])
    guess = f"did you mean {guesses[0]}? " if guesses else ""
    raise UserError(f"there is no option {option}; {guess}values of the recipe are written key=value")


def parse_seeds(text: str) -> list[int]:
    """Different whole numbers between commas."""
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or len(set(numbers)) < len(numbers):
        raise UserError(f"--seeds {text}: give different whole numbers between commas, e.g. 0,1,2")
    return numbers
