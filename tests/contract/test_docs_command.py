"""docs/reference/command-line.md describes every verb and every option, in the words of the help."""

from __future__ import annotations

import argparse
import re

import pytest

from tests.support.markdown import ROOT
from timberline.__main__ import _GROUPS, build_parser
from timberline.registry.runtime.settings import PathsSection

PAGE = (ROOT / "docs" / "reference" / "command-line.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
SHARED = ("--model", "--models", "--data", "--registry", "--set", "--log-level", "--log-format", "--help")
_, VERBS = build_parser()


def section(verb: str) -> str:
    """The text under the heading of a verb."""
    found = re.search(rf"^### `{verb}`\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"no section {verb}"
    return found[1]


def describe_option(option: argparse.Action) -> str:
    """The row of one option."""
    names = ", ".join(f"`{name}`" for name in option.option_strings)
    if option.nargs != 0 and not isinstance(option, argparse.BooleanOptionalAction):
        shown = option.metavar or "|".join(map(str, option.choices or ())) or option.dest.upper()
        names = f"`{option.option_strings[0]} {shown}`"
    return f"| {names} | {(option.help or '').replace('|', chr(92) + '|')} |"


@pytest.mark.parametrize("verb", sorted(VERBS.choices))
def test_every_option_of_a_verb_is_on_the_page(verb: str) -> None:
    """An option that is not written down does not exist for its users, and one that is gone misleads them."""
    options = [option for option in VERBS.choices[verb]._actions if option.option_strings]
    text = section(verb)
    if verb == "serve":  # its settings have a page of their own, with their defaults
        assert "service.md" in text
        return
    own = [option for option in options if not set(option.option_strings) & set(SHARED)]
    rows = [line for line in text.splitlines() if line.startswith("| `-")]
    assert rows == [describe_option(option) for option in own]
    shared = [name for name in SHARED[1:5] if any(name in option.option_strings for option in options)]
    (line,) = re.findall(r"^Shared options: (.*)$", text, re.MULTILINE) or [""]
    assert re.findall(r"`(--[a-z]+)`", line) == shared


def test_the_page_lists_the_verbs_by_group_as_the_help_does() -> None:
    """Whoever knows one finds the other."""
    groups: dict[str, list[str]] = {}
    for level, name in re.findall(r"^(#{2,3}) `?(.*?)`?$", PAGE, re.MULTILINE):
        if level == "##":
            groups[name] = []
        elif groups:
            groups[list(groups)[-1]].append(name)
    documented = {name.lower(): verbs for name, verbs in groups.items() if name.lower() in _GROUPS}
    assert documented == {
        group: [verb for verb in verbs if verb != "help"] for group, verbs in _GROUPS.items()
    }


def test_the_variables_of_make_have_the_defaults_that_are_documented() -> None:
    """They are the first settings that anybody meets."""
    real = dict(re.findall(r"^(\w+) +\?=(.*)$", MAKEFILE, re.MULTILINE))
    shown = dict(re.findall(r"^\| `([A-Z_]+)` \| (?:`([^`]*)` )?\|", PAGE, re.MULTILINE))
    assert set(shown) >= {"MODEL", "MODELS", "DATA", "REGISTRY", "HOST", "PORT", "SET"}
    assert shown.pop("DATA") == PathsSection().data  # the Makefile leaves it to model.toml
    assert {name: real[name].strip() for name in shown} == {
        name: text.strip() for name, text in shown.items()
    }


def test_every_target_of_make_is_on_the_page() -> None:
    """The page is where a target is looked up."""
    targets = re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE)
    assert len(targets) > 20
    assert [target for target in targets if f"`make {target}`" not in PAGE] == []
