"""`glmc push`: a run's last checkpoint, recipe, result and model card as a repository of the hub."""

import json
import tempfile
from pathlib import Path
from typing import Any

from glmc.deploy import card, hub
from glmc.deploy.export import Opened, open_run
from glmc.inference.calibrate import FILE
from glmc.runs import checkpoint, result
from glmc.runs.shapes import read_json
from glmc.screen import Screen


def push(reference: str, name: str, *, private: bool = False, token: str | None = None, quiet: bool = False) -> str:
    """Upload a run and return the address of its repository.

    What goes up is a run folder that every command takes as `hf:user/name`: the weights that are tested, without the
    state of the optimizer, and without paths of this machine.

    Args:
        reference: run folder or one checkpoint.
        name: user/name, new or empty.
        private, token: see `hub.upload`.
        quiet: nothing on the terminal.

    Raises:
        UserError: no run there, or the hub refuses.
    """
    screen = Screen(quiet=quiet)
    hub.split(hub.PREFIX + name)
    opened = open_run(hub.resolve(reference), screen)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        gather(folder, opened, name)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        screen.say(f"uploading {size / 2**20:.1f} MiB to hf:{name}")
        address = hub.upload(
            folder, name, private=private, token=token, message=f"{opened.recipe.name}, trained with glmc"
        )
    screen.say(f"{address}   as a run: hf:{name}")
    return address


def gather(folder: Path, opened: Opened, name: str) -> None:
    """Write the run folder that goes up."""
    recipe = opened.public.to_yaml()
    state = {**opened.point.state, "recipe": recipe, "run": None}  # nothing of where it was trained goes up
    checkpoint.save(folder / "checkpoints", opened.point.step, {"weights": opened.trained.method.state_dict()}, state)
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    (folder / "glmc.json").write_text(json.dumps({**opened.about, "kind": "run"}, indent=1) + "\n", encoding="utf-8")
    if opened.result:
        first = opened.result.stage1 and opened.result.stage1.model_copy(update={"run": None})
        result.write(folder, opened.result.model_copy(update={"stage1": first}))
    if (opened.point.home / FILE).exists():
        fitted = read_json(dict[str, Any], opened.point.home, FILE, "run glmc calibrate again")
        if fitted.get("step") == opened.point.step:
            told = {**fitted, "source": "held-out images"}
            (folder / FILE).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    text = card.render(opened.about, recipe, "run", few=opened.recipe.eval.few, result=opened.result, name=name)
    (folder / "README.md").write_text(text, encoding="utf-8")
