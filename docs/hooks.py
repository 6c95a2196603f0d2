"""The reference pages, made from the source whenever the site is built: methods, losses, mixtures, recipes, keys."""

import inspect
from collections.abc import Iterator
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from glmc import recipe
from glmc.recipe import choice, views
from glmc.recipe.base import Section
from glmc.recipe.document import shown


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those of the folder."""
    pages = {
        "methods": factors("method", "."),
        "losses": factors("loss", ", the loss of `supervised` and of GLMC's rebalanced classifier."),
        "mixtures": factors("mixture", "."),
        "recipes": recipes(),
        "keys": keys(),
    }
    for name, page in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content="\n".join(page)))
    return files


def factors(section: str, about: str) -> Iterator[str]:
    """A section for each method, loss or mixture: what it is, its settings, the recipes that use it."""
    title = choice.LISTS[section]
    yield f"# {title.capitalize()}\n\nA recipe names one as `{section}.name`{about}"
    used: dict[str, list[str]] = {}
    for name in recipe.names():
        used.setdefault(getattr(recipe.load(name), section).name, []).append(name)
    for name in choice.TABLES[section]:
        kind = choice.class_of(section, name)
        summary, _, _ = inspect.getdoc(kind).partition("\n\nArgs:")  # type: ignore[union-attr]
        yield f"\n## {name}\n\n{inspect.getdoc(inspect.getmodule(kind))}\n\n{summary}\n"
        meaning = choice.meanings(section, name)
        settings = choice.settings(section, name)
        if settings:
            yield "| setting | type | default | meaning |\n|---|---|---|---|"
            for key, (annotation, default) in settings.items():
                kind_of = "loss or null" if choice.nested(annotation) else recipe.kind(annotation)
                yield f"| `{section}.{key}` | {kind_of} | `{shown(default)}` | {cell(meaning.get(key, ''))} |"
        yield "\nRecipes: " + (", ".join(f"[{one}](recipes.md#{anchor(one)})" for one in used.get(name, ())) or "none")


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
        if not (inspect.isclass(section) and issubclass(section, Section)):
            continue
        yield f"\n## {name}\n\n{(section.__doc__ or '').partition(chr(10))[0]}\n"
        yield "| key | type | default | meaning |\n|---|---|---|---|"
        for key, one in section.model_fields.items():
            yield row(f"{name}.{key}", one)
    yield "\n## Operations of a view\n"
    yield "Carried out in the order in which they stand. `flip`, without a key, mirrors every second image.\n"
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    for name, form in views.OPERATIONS.items():
        value: Any = form.model_fields[name].annotation
        grouped = inspect.isclass(value) and issubclass(value, Section)
        told = value if grouped else form
        yield f"| **{name}** | | | {(told.__doc__ or '').partition(chr(10))[0]} |"
        for key, one in told.model_fields.items():
            yield row(f"{name}.{key}" if grouped else key, one)


def row(key: str, field: Any) -> str:
    """A row of a table of keys."""
    default = "needed" if field.is_required() else f"`{field.default}`"
    allowed = ", ".join(filter(None, [recipe.kind(field.annotation), recipe.bounds(field)]))
    return f"| `{key}` | {allowed} | {default} | {cell(str(field.description or ''))} |"


def cell(text: str) -> str:
    """Text that may stand in a table."""
    return text.replace("|", "\\|")


def anchor(name: str) -> str:
    """Of a recipe's section."""
    return name.replace("/", "-").replace("_", "-")
