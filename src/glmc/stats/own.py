"""Which recipe for one's own photographs, when none is named: a pretrained network where its weights can be had."""

from typing import NamedTuple

from glmc import recipe
from glmc.models.weights import obstacle


class Choice(NamedTuple):
    """A recipe, and why."""

    recipe: str
    reason: str


def choose() -> Choice:
    """`folder/finetune` if its weights lie in the hub's cache or the hub answers, else `folder/glmc`."""
    name = recipe.load("folder/finetune").model.name
    reason = obstacle(name)
    if reason is None:
        return Choice("folder/finetune", f"few images a class are rarely learnt from scratch, so {name} is fine-tuned")
    return Choice(
        "folder/glmc",
        f"the weights of {name} cannot be had ({reason}), so a network is trained from scratch; "
        f"folder/finetune model.pretrained=FILE takes weights that you have",
    )
