"""Templates → text in which every value is escaped unless it is markup already."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, **values: object) -> bytes:
    """A file of templates/ with these values, in UTF-8; equal values give equal bytes."""
    text = _ENVIRONMENT.get_template(template).render(values)
    return text.encode(errors="replace")  # a path in a reason may hold bytes that are no text
