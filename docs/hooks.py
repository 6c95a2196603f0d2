"""The reference pages, made from the source whenever the site is built: methods, recipes, keys."""

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from glmc import recipe
from glmc.methods import METHODS
from glmc.recipe import sections


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those of the folder."""
    for name, page in (("methods", methods()), ("recipes", recipes()), ("keys", keys())):
        files.append(File.generated(config, f"reference/{name}.md", content="\n".join(page)))
    return files


def methods() -> Iterator[str]:
    """A section for each method: what it is, its settings, the recipes that use it."""
    yield "# Methods\n\nA recipe names one as `method.name`; second stages are begun by `glmc finetune --stage2`."
    used: dict[str, list[str]] = {}
    for name in recipe.names():
        used.setdefault(recipe.load(name).method.name, []).append(name)
    for name, place in METHODS.items():
        module, _, kind = place.partition(":")
        tree = ast.parse(Path(str(importlib.util.find_spec(module).origin)).read_text())  # type: ignore[union-attr]
        classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        summary, _, rest = inspect.cleandoc(ast.get_docstring(classes[kind]) or "").partition("\n\nArgs:")
        yield f"\n## {name}\n\n{ast.get_docstring(tree)}\n\n{summary}\n"
        meaning = meanings(rest)
        parameters = recipe.method_parameters(name)
        if parameters:
            yield "| setting | type | default | meaning |\n|---|---|---|---|"
            for key, (annotation, default) in parameters.items():
                yield f"| `method.{key}` | {recipe.kind(annotation)} | `{default}` | {meaning.get(key, '')} |"
        yield "\nRecipes: " + (", ".join(f"[{one}](recipes.md#{anchor(one)})" for one in used.get(name, ())) or "none")


def meanings(arguments: str) -> dict[str, str]:
    """Name -> meaning, from the part of a docstring that explains arguments; several may share one."""
    found: dict[str, str] = {}
    for names, text in re.findall(r"^(\w+(?:, \w+)*): (.*(?:\n +.*)*)", inspect.cleandoc(arguments), re.M):
        found |= dict.fromkeys(names.split(", "), " ".join(text.split()).replace("|", "\\|"))
    return found


def recipes() -> Iterator[str]:
    """A section for each packaged recipe: its file."""
    yield "# Recipes\n\nEach is one complete YAML file; `glmc show NAME` prints it with every default."
    for name in recipe.names():
        wanted = recipe.load(name)
        yield f"\n## {name} {{#{anchor(name)}}}\n\n{wanted.about.partition(chr(10))[0]}\n"
        if wanted.published is not None:
            found = wanted.published
            yield f"Published: top-1 {found.top1} with {found.network} ({found.source}).\n"
        if wanted.expect is not None:
            found = wanted.expect
            record = f"`benchmarks/records/{found.record}`"
            yield f"Measured: top-1 {found.top1} ± {found.sd} over {found.seeds} seeds ({record}).\n"
        yield f"```yaml\n{wanted.to_yaml()}```"


def keys() -> Iterator[str]:
    """A table for each section of a recipe: key, type, default, meaning."""
    yield "# Keys of a recipe\n\nIn a file, or as `section.key=value` on the command line."
    for name, field in recipe.Recipe.model_fields.items():
        section: Any = field.annotation
        if not (inspect.isclass(section) and issubclass(section, sections.Section)):
            continue
        yield f"\n## {name}\n\n{(section.__doc__ or '').partition(chr(10))[0]}\n"
        yield "| key | type | default | meaning |\n|---|---|---|---|"
        for key, one in section.model_fields.items():
            default = "needed" if one.is_required() else f"`{one.default}`"
            annotation = one.annotation
            meaning = str(one.description or "").replace("|", "\\|")
            yield f"| `{name}.{key}` | {recipe.kind(annotation)} | {default} | {meaning} |"


def anchor(name: str) -> str:
    """Of a recipe's section."""
    return name.replace("/", "-").replace("_", "-")
