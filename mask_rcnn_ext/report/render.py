"""Renders HTML pages from templates with one base and one stylesheet; a page is a single file."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .text import to_text

__all__ = ["render_page"]

_TEMPLATES = Path(__file__).with_name("templates")


def render_page(name: str, folder: Path = _TEMPLATES, /, **values: Any) -> str:
    """Return a page.

    Args:
        name: file name of its template, which extends `base.html.j2`.
        folder: the folder of the template, unless it is one of this package.
        values: the names that the template reads; a name that is missing is an error.
    """
    environment = Environment(
        loader=FileSystemLoader([folder, _TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = to_text
    environment.filters["signed"] = lambda value: to_text(value, signed=True)
    environment.filters["count"] = lambda value: f"{value:,}"
    return environment.get_template(name).render(values)
