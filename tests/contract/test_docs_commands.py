"""Every `timberline` command of every page is one that the command line takes; `make test-docs` runs them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import pytest

from tests.support.markdown import ROOT, list_blocks
from timberline.__main__ import build_parser

PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
PARSER, VERBS = build_parser()
_COMMAND = re.compile(r"(?:^|[;&|(]|\bthen|\bexec) *(?:\.venv/bin/)?timberline ([^\n]*)", re.MULTILINE)
_ENDS = {"|", "||", "&", "&&", ";", ">", ">>", "2>", "2>>", "<", ")"}


def list_commands() -> Iterator[tuple[str, str]]:
    """Where each command stands, and its words."""
    for page in PAGES:
        for block in list_blocks(page.read_text("utf-8")):
            if block.language in {"", "sh", "console"}:
                code = re.sub(r"\\\n *", "", block.code)
                code = re.sub(r"(?<=\S) +# .*$", "", code, flags=re.MULTILINE)
                for found in _COMMAND.finditer(code):
                    yield f"{page.relative_to(ROOT)}:{block.line}", found[1]


def split_words(text: str) -> list[str]:
    """The words of the command alone: up to a pipe, a redirection or the end."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = []
    for word in lexer:
        if word in _ENDS or word.startswith((";", ")")):
            break
        words.append(word)
    return words


COMMANDS = sorted(set(list_commands()))


def test_the_pages_have_commands() -> None:
    """Else a change of their form would leave nothing to look at."""
    assert len(COMMANDS) > 50


@pytest.mark.parametrize(("where", "text"), COMMANDS)
def test_a_command_of_a_page_is_understood(where: str, text: str) -> None:
    """A verb or an option that was renamed stays on a page, and the reader meets an error."""
    words = [word for word in split_words(text) if not word.startswith("[")]
    if words[0] in {"help", "--version"} or words[0].isupper():
        return
    PARSER.parse_args(words)
