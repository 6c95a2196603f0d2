"""What the commands have in common: kinds of arguments, and how words become a recipe's name and overrides."""

from typing import Annotated

import typer

from glmc.errors import UserError

Words = Annotated[list[str] | None, typer.Argument(metavar="[RECIPE] [KEY=VALUE]...", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", show_default=False)]
RunReference = Annotated[
    str, typer.Argument(metavar="RUN", show_default=False, help="Run folder or checkpoint, or hf:user/name.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def split_words(words: list[str] | None) -> tuple[str | None, tuple[str, ...]]:
    """A recipe's name, if the first word is no assignment, and the assignments."""
    words = list(words or ())
    name = words.pop(0) if words and "=" not in words[0] else None
    for word in words:
        if "=" not in word:
            raise UserError(f"{word!r} is neither the first word, which names the recipe, nor key=value")
    return name, tuple(words)


def parse_seeds(text: str) -> list[int]:
    """Different whole numbers between commas."""
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or len(set(numbers)) < len(numbers):
        raise UserError(f"--seeds {text}: give different whole numbers between commas, e.g. 0,1,2")
    return numbers
