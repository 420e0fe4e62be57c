"""Markdown pages as tests read them: headings, links, blocks of code.

Code in fences is neither heading nor link. What may be checked with it stands in the comment before a fence:

    <!-- test: exits=1 -->
    ```sh
    …
    ```
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n(?P<code>.*?)^(?P=indent)```[ ]*$",
    re.MULTILINE | re.DOTALL,
)
_OPTIONS = re.compile(r"<!-- test: (.*?) -->\s*\Z")


class Block(NamedTuple):
    """One block of code."""

    line: int  # of its fence, from 1
    language: str
    code: str
    options: dict[str, str]  # of the comment before it
    follows_directly: bool  # whether nothing but blank lines stands between it and the block before


def list_files(*patterns: str) -> list[Path]:
    """Files of the repository, committed or about to be: all, or those that match one of git's patterns."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return sorted({path for path in paths if path.exists()})


def list_pages() -> list[Path]:
    """Every Markdown page of the repository."""
    return list_files("*.md")


def list_blocks(text: str) -> Iterator[Block]:
    """The blocks of code in their order."""
    end = 0
    for found in _FENCE.finditer(text):
        between = text[end : found.start()]
        noted = _OPTIONS.search(between)
        options = dict(word.partition("=")[::2] for word in noted[1].split()) if noted else {}
        line = text.count("\n", 0, found.start()) + 1
        code = re.sub(rf"^{found['indent']}", "", found["code"], flags=re.MULTILINE)
        yield Block(line, found["language"], code, options, not between.strip())
        end = found.end()


def strip_code(text: str) -> str:
    """The page without code, in blocks and in lines."""
    return re.sub(r"`[^`\n]*`", "``", _FENCE.sub("", text))


def list_anchors(text: str) -> set[str]:
    """The anchors of the headings, made as GitHub and site generators do."""
    anchors: set[str] = set()
    for title in re.findall(r"^#{1,6} +(.*?) *#* *$", _FENCE.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w -]", "", plain.lower()).replace(" ", "-")
        count = 0
        while (anchor := f"{slug}-{count}" if count else slug) in anchors:
            count += 1
        anchors.add(anchor)
    return anchors


def list_links(text: str) -> list[str]:
    """The targets of links and pictures, without titles."""
    return [target.split()[0] for target in re.findall(r"\]\(([^)]+)\)", strip_code(text))]


def replace_links(text: str, replace: Callable[[str], str]) -> str:
    """The page with the target of each link and picture replaced, in Markdown and in HTML; never in code."""
    target = re.compile(r"(?<=\]\()[^)\s]+|(?<=\bsrc=\")[^\"]+|(?<=\bhref=\")[^\"]+")
    code = re.compile(rf"{_FENCE.pattern}|`[^`\n]*`", _FENCE.flags)
    parts, end = [], 0
    for found in code.finditer(text):
        parts += [target.sub(lambda link: replace(link[0]), text[end : found.start()]), found[0]]
        end = found.end()
    return "".join([*parts, target.sub(lambda link: replace(link[0]), text[end:])])
