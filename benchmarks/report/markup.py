"""HTML and SVG by construction: whatever is not markup already gets escaped.

page = tag("p", "5 < 6 in ", tag("b", model_name), class_="note")
"""

from __future__ import annotations

import html
from collections.abc import Iterable

# Elements of HTML that have no content and no end tag.
_VOID = frozenset({"br", "hr", "img", "link", "meta"})


class Markup(str):
    """Text that is safe to put into a page as it is; only this module and constants make it."""

    __slots__ = ()


Child = Markup | str | Iterable["Child"] | None
Value = str | float | bool | None


def tag(element: str, /, *children: Child, **attributes: Value) -> Markup:
    """One element.

    Args:
        element: its name.
        children: strings are escaped, `Markup` is kept, iterables are joined, None is left out.
        attributes: None and False are left out, True stands without a value, numbers get at most
            two decimals. ``class_`` is written class, ``data_head`` data-head.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if element in _VOID:
        return Markup(f"<{element}{written}>")
    return Markup(f"<{element}{written}>{join(children)}</{element}>")


def join(children: Child) -> Markup:
    """Children one after another, escaped where they are plain text."""
    if children is None:
        return Markup("")
    if isinstance(children, Markup):
        return children
    if isinstance(children, str):
        return Markup(html.escape(children, quote=False))
    return Markup("".join(join(child) for child in children))


def _attribute(key: str, value: Value) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    return f' {name}="{html.escape(format_number(value) if isinstance(value, int | float) else value)}"'


def format_number(value: float) -> str:
    """At most two decimals: a hundredth of a pixel is seen by nobody, and a page has thousands of them."""
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")
