"""CommonMark, as GitHub reads it, for Python-Markdown, as the site's generator does.

The two read lists differently: Python-Markdown wants a blank line before a list, and what belongs to an item
indented by four; to it any line of an item that begins with a number is a list of its own. A page that is
right on GitHub would lose steps and code on the site.
"""

from __future__ import annotations

import re

from markdown_it import MarkdownIt
from markdown_it.token import Token

_INDENT = "    "
_MARKER = re.compile(r" {0,3}(?:[-*+]|\d{1,9}[.)])(?: {1,4}(?! )|(?= {5})|$)")


def adapt_lists(text: str) -> str:
    """The page with its lists written so that both dialects read the same; all else as it is."""
    return "\n".join(_adapt(text.split("\n"), is_inside=False))


def _adapt(lines: list[str], *, is_inside: bool) -> list[str]:
    """``lines`` of a page, or of an item of a list without its indent."""
    tokens = _parse("\n".join(lines))
    lines = _escape_numbers(lines, tokens)
    written: list[str] = []
    done = 0
    for token in tokens:
        if token.type not in {"bullet_list_open", "ordered_list_open"} or token.level:
            continue
        assert token.map is not None
        start, end = token.map
        written += lines[done:start]
        if written and written[-1].strip() and not is_inside:
            written.append("")
        written += _adapt_list(lines[start:end])
        done = end
        if not is_inside and written[-1].strip() and done < len(lines) and lines[done].strip():
            written.append("")
    return written + lines[done:]


def _adapt_list(lines: list[str]) -> list[str]:
    written: list[str] = []
    for token in _parse("\n".join(lines)):
        if token.type == "list_item_open" and token.level == 1:
            assert token.map is not None
            first, *others = lines[slice(*token.map)]
            marker = _MARKER.match(first)
            assert marker is not None, first
            width = _find_indent(others, marker.end())
            rest = [re.sub(rf"^ {{0,{width}}}", "", line) for line in others]
            content = _adapt([first[marker.end() :], *rest], is_inside=True)
            written.append(f"{marker[0].strip()} {content[0]}")
            written += [_INDENT + line if line.strip() else "" for line in content[1:]]
    return written


def _escape_numbers(lines: list[str], tokens: list[Token]) -> list[str]:
    """Where a line that goes on in a paragraph begins with a number and a full stop: that is no list."""
    escaped = list(lines)
    for token in tokens:
        if token.type == "paragraph_open" and token.level == 0 and token.map is not None:
            for at in range(token.map[0] + 1, token.map[1]):
                escaped[at] = re.sub(r"^( *\d+)(?=[.)] )", r"\1\\", lines[at])
    return escaped


def _find_indent(lines: list[str], least: int) -> int:
    """By how much an item's further lines are indented: up to three columns more than they need to be."""
    indents = (len(line) - len(line.lstrip(" ")) for line in lines if line.strip())
    return min((indent for indent in indents if least <= indent < least + 4), default=least)


def _parse(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(text)
