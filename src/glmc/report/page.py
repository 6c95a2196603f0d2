"""A page out of one of the package's templates, and how it writes numbers and names. Needs no torch."""

import math
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2

from glmc.report.drawing import PALETTE


def render(name: str, words: Mapping[str, Any]) -> str:
    """A page from one of the package's templates; `words` are escaped."""

    def load(template: str) -> str:
        return files("glmc").joinpath("templates", template).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(load),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, duration=duration, parameters=parameters)
    return environment.get_template(name).render(palette=PALETTE, **words)


def number(value: float | None, digits: int = 1) -> str:
    """A number with a true minus sign; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "−")


def parameters(count: int) -> str:
    """466906 -> "0.47 M"."""
    return f"{count / 1e6:.2f} M" if count >= 1e5 else f"{count:,}"


def duration(seconds: float | None) -> str:
    """3725.0 -> "1 h 02 min"; the two largest units only."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
