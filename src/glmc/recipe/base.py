"""What every section of a recipe is made of."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

Value = TypeVar("Value")
Harmless = Annotated[Value, "harmless"]
"""The type of a key that does not change what comes out of a run; `glmc.recipe.HARMLESS` collects them."""


class Section(BaseModel):
    """A group of keys. Strict: no key more, no type bent; a whole number may stand where a number is wanted."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def rule(key: str, predicate: str) -> PydanticCustomError:
    """The complaint "<section>.<key> <predicate>", for what depends on more than one key."""
    return PydanticCustomError("rule", "{predicate}", {"key": key, "predicate": predicate})
