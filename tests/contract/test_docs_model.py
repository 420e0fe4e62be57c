"""docs/reference/model.md and features.md name every key, default and operator that there is."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import pytest
from msgspec import inspect

from tests.support.markdown import ROOT, list_blocks
from timberline.training.config import ModelConfig
from timberline.training.features.language import OPERATORS, REWRITTEN
from timberline.training.features.learned import LEARNED

MODEL = (ROOT / "docs" / "reference" / "model.md").read_text("utf-8")
FEATURES = (ROOT / "docs" / "reference" / "features.md").read_text("utf-8")


def keys(node: inspect.Type) -> Iterator[str]:
    """Every key that a table of this type, or a table in it, may have."""
    if isinstance(node, inspect.StructType):
        for field in node.fields:
            yield field.encode_name
            yield from keys(field.type)
    elif isinstance(node, inspect.UnionType):
        for kind in node.types:
            yield from keys(kind)
    elif isinstance(node, inspect.DictType):
        yield from keys(node.value_type)


def test_every_setting_of_a_model_folder_is_in_the_reference() -> None:
    """A setting that is not written down does not exist for its users."""
    missing = [key for key in sorted(set(keys(inspect.type_info(ModelConfig)))) if key not in MODEL]
    assert missing == []


class Shown(NamedTuple):
    """One key of the reference: its value, and what stands behind it, over as many lines as that takes."""

    table: str
    key: str
    value: Any
    comment: str
    kind: str  # of the last `kind = "…"` above it, in this table
    is_commented_out: bool


def list_shown() -> Iterator[Shown]:
    """The keys of the reference in their order, also those that are commented out."""
    shown = "".join(block.code for block in list_blocks(MODEL) if block.language == "toml")
    tomllib.loads(shown)
    # A comment that goes on in the next line.
    text = re.sub(r"\n {12,}# *", " ", shown)
    table = kind = ""
    for line in text.splitlines():
        if head := re.match(r"\[(\w+)\]", line):
            table, kind = head[1], ""
        elif found := re.match(r"(# )?(\w+) = (.*)$", line):
            text, _, comment = found[3].partition(" # ")
            value = read_value(text)
            kind = value if found[2] == "kind" else kind
            yield Shown(table, found[2], value, comment, kind, bool(found[1]))


def read_value(text: str) -> Any:
    """A value of TOML; `[low, high]` is none, and stays as it is."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def list_structs(node: inspect.Type) -> Iterator[inspect.StructType]:
    """The tables that can stand at this place."""
    if isinstance(node, inspect.StructType):
        yield node
    elif isinstance(node, inspect.UnionType):
        for kind in node.types:
            yield from list_structs(kind)
    elif isinstance(node, inspect.DictType):
        yield from list_structs(node.value_type)


def tables() -> dict[str, list[inspect.StructType]]:
    """The kinds of every table of model.toml."""
    root = inspect.type_info(ModelConfig)
    assert isinstance(root, inspect.StructType)
    return {field.encode_name: list(list_structs(field.type)) for field in root.fields}


def settle(value: Any) -> Any:
    """As the settings hold it: lists are tuples."""
    return tuple(map(settle, value)) if isinstance(value, list) else value


def read_default(field: inspect.Field) -> Any:
    """The default of a field; NODEFAULT where it is required."""
    made = field.default_factory
    return field.default if made is msgspec.NODEFAULT else made()


def is_documented_rightly(shown: Shown, field: inspect.Field) -> bool:
    """Whether the reader learns the default, that there is none, or that the key is required."""
    default = read_default(field)
    if default is msgspec.NODEFAULT:
        return "required" in shown.comment
    if default is None:
        is_marked = "none by default" in shown.comment or "when absent" in shown.comment
        return shown.is_commented_out or is_marked
    return bool(settle(shown.value) == default) and "required" not in shown.comment


def find_fields(shown: Shown) -> list[inspect.Field]:
    """The settings that a shown key stands for: of the table's kind, or of those that its comment names."""
    kinds = tables()[shown.table]
    named = [kind for kind in kinds if re.match(rf"{kind.tag}\b(?!:)", shown.comment)]
    if not named:
        named = [kind for kind in kinds if kind.tag == shown.kind] if shown.kind else kinds
    return [field for kind in named for field in kind.fields if field.encode_name == shown.key]


def list_settings() -> list[Shown]:
    """What is shown but for `kind`, which has a test of its own, and the column of the example's own."""
    return [
        shown
        for shown in list_shown()
        if shown.key != "kind" and (shown.table != "columns" or shown.is_commented_out)
    ]


@pytest.mark.parametrize("shown", list_settings(), ids="{0.table}.{0.key}".format)
def test_the_reference_shows_the_real_default(shown: Shown) -> None:
    """A default on the page that is not the default misleads worse than none."""
    fields = find_fields(shown)
    assert fields, f"{shown.key} is no key of [{shown.table}] {shown.kind}"
    assert all(is_documented_rightly(shown, field) for field in fields), (
        shown,
        [read_default(f) for f in fields],
    )


def test_the_reference_shows_the_kinds_that_are_the_defaults() -> None:
    """`kind` names one of several tables; the one that is shown first is what an absent table is."""
    first = {shown.table: shown.kind for shown in reversed(list(list_shown())) if shown.key == "kind"}
    kinds = {field.encode_name: field.default for field in msgspec.structs.fields(ModelConfig)}
    assert first["network"] == kinds["network"].__struct_config__.tag
    required = {shown.table for shown in list_shown() if shown.key == "kind"} - {"network"}
    assert {table for table in required if kinds[table] is not msgspec.NODEFAULT} == set()


@pytest.mark.parametrize(
    ("table", "kind"),
    [(table, kind) for table in ("split", "network") for kind in tables()[table]],
    ids=lambda one: one if isinstance(one, str) else one.tag,
)
def test_the_reference_shows_the_defaults_of_every_kind(table: str, kind: inspect.StructType) -> None:
    """They differ from kind to kind: behind a value stand those of the others that have another."""
    documented = {}
    for shown in list_shown():
        others = dict(re.findall(r"\b(\w+): (\[.*?\]|[\d.]+)", shown.comment))
        if found := re.search(rf"(\w+) \({kind.tag}'s default\)", shown.comment):
            others[str(kind.tag)] = repr(found[1])
        if shown.table == table:
            own = others.get(str(kind.tag))
            documented[shown.key] = settle(shown.value if own is None else read_value(own))
    known = {field.encode_name: read_default(field) for field in kind.fields}
    known = {key: default for key, default in known.items() if default not in (None, msgspec.NODEFAULT)}
    assert {key: documented[key] for key in known} == known


@pytest.mark.parametrize(("written", "meaning"), [*OPERATORS.values(), *REWRITTEN.items()])
def test_every_operator_is_in_the_table(written: str, meaning: str) -> None:
    """The table is the language, no less."""
    assert "| `{}` | {} |".format(written.replace("|", "\\|"), meaning) in FEATURES


@pytest.mark.parametrize("function", sorted(LEARNED))
def test_every_learned_constant_is_in_the_reference(function: str) -> None:
    """As the operators: what is not written down does not exist."""
    written, meaning = LEARNED[function]
    assert f"| `{written}` | {meaning} |" in FEATURES
