"""Strict typed settings from TOML: an unknown key, wrong type or value out of range is an error
that names the file, the key, what was found, what is allowed and the nearest valid key.

Precedence: flag (``--set a.b=1``) > environment (``TIMBERLINE_A_B=1``) > file > default.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from registry.errors import ConfigError

T = TypeVar("T", bound=msgspec.Struct)
ENVIRONMENT_PREFIX = "TIMBERLINE_"

_PATH_AT_END = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")


def load_settings(
    path: Path,
    kind: type[T],
    *,
    overrides: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> T:
    """Read ``path`` into a frozen ``kind``, with overrides applied.

    Args:
        path: a TOML file.
        kind: a ``msgspec.Struct`` with ``forbid_unknown_fields``.
        overrides: ``section.key=value`` strings, the value in TOML syntax (a bare word is a string).
        environment: variables to look for ``TIMBERLINE_SECTION_KEY`` in; only names that match a
            key of ``kind`` count.

    Raises:
        ConfigError: the file is missing, is not TOML, or does not describe a ``kind``.
    """
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError("no such file", where=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"not valid TOML: {error}", where=str(path)) from error
    changed: dict[str, str] = {}
    for name, text in (environment or {}).items():
        dotted = _dotted_name(name, kind)
        if dotted:
            _assign(tree, dotted, text)
            changed[dotted] = f"environment {name}"
    changed.update(apply_overrides(tree, overrides))
    return convert_settings(tree, kind, where=str(path), changed=changed)


def apply_overrides(tree: dict[str, Any], overrides: Iterable[str]) -> dict[str, str]:
    """Set ``section.key=value`` strings in ``tree``; return where each changed key came from.

    Raises:
        ConfigError: an override is not of this form, or goes through a value as if it were a section.
    """
    changed: dict[str, str] = {}
    for override in overrides:
        dotted, equals, text = override.partition("=")
        if not equals or not dotted:
            raise ConfigError(f"found {override!r}, expected section.key=value", where="--set")
        _assign(tree, dotted.strip(), text.strip())
        changed[dotted.strip()] = f"--set {dotted.strip()}"
    return changed


def convert_settings(
    tree: Mapping[str, Any], kind: type[T], *, where: str, changed: Mapping[str, str] | None = None
) -> T:
    """Turn a parsed tree into ``kind``; ``changed`` names where overridden keys came from."""
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        message, dotted = _split_message(str(error))
        unknown = re.search(r"unknown field `(?P<key>[^`]*)`", message)
        if unknown:
            dotted = f"{dotted}.{unknown['key']}".lstrip(".")
        origin = next((source for key, source in (changed or {}).items() if _covers(key, dotted)), where)
        raise ConfigError(
            _explain(message, tree, kind, dotted, unknown["key"] if unknown else None),
            where=f"{origin}: {dotted}" if dotted else origin,
        ) from None


def _covers(key: str, dotted: str) -> bool:
    return dotted == key or dotted.startswith(f"{key}.") or key.startswith(f"{dotted}.")


def _split_message(message: str) -> tuple[str, str]:
    at = _PATH_AT_END.search(message)
    return (message[: at.start()], at["path"]) if at else (message, "")


def _explain(
    message: str, tree: Mapping[str, Any], kind: type[msgspec.Struct], dotted: str, key: str | None
) -> str:
    if key is not None:
        parent = dotted.rpartition(".")[0]
        valid = _valid_keys(tree, kind, parent)
        near = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
        suggestion = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown key {key!r}{suggestion} Allowed here: {', '.join(valid) or 'nothing'}."
    found = _lookup(tree, dotted)
    shown = "" if found is _MISSING else f" (found {_shorten(found)})"
    return f"{message[0].lower()}{message[1:]}{shown}"


_MISSING = object()


def _lookup(tree: object, dotted: str) -> object:
    for step in re.findall(r"[^.\[\]]+|\[\d+\]", dotted):
        if step.startswith("[") and isinstance(tree, list):
            tree = tree[int(step[1:-1])]
        elif isinstance(tree, Mapping) and step in tree:
            tree = tree[step]
        else:
            return _MISSING
    return tree


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _valid_keys(tree: object, kind: type[msgspec.Struct], dotted: str) -> list[str]:
    """Keys allowed at ``dotted``, following the tree's own tags where a table may be of several kinds."""
    node: inspect.Type = inspect.type_info(kind)
    for step in re.findall(r"[^.\[\]]+|\[[^\]]*\]", dotted):
        tree = _step(tree, step)
        node = _child(node, step, tree)
    if not isinstance(node, inspect.StructType):
        return []
    tag = [node.tag_field] if node.tag_field else []
    return tag + [field.encode_name for field in node.fields]


def _step(tree: object, step: str) -> object:
    if isinstance(tree, Mapping):
        return tree.get(step)
    if isinstance(tree, list) and re.fullmatch(r"\[\d+\]", step):
        return tree[int(step[1:-1])]
    return None


def _child(node: inspect.Type, step: str, value: object) -> inspect.Type:
    child: inspect.Type = node
    if isinstance(node, inspect.StructType):
        child = next((f.type for f in node.fields if f.encode_name == step), inspect.AnyType())
    elif isinstance(node, inspect.DictType):
        child = node.value_type
    elif isinstance(node, inspect.VarTupleType | inspect.ListType):
        child = node.item_type
    if isinstance(child, inspect.UnionType):
        child = _choose(child, value)
    return child


def _choose(union: inspect.UnionType, value: object) -> inspect.Type:
    structs = [kind for kind in union.types if isinstance(kind, inspect.StructType)]
    for struct in structs:
        if isinstance(value, Mapping) and struct.tag_field and value.get(struct.tag_field) == struct.tag:
            return struct
    return structs[0] if structs else inspect.AnyType()


def _dotted_name(variable: str, kind: type[msgspec.Struct]) -> str | None:
    """``TIMBERLINE_TRAINING_BATCH_ROWS`` → ``training.batch_rows`` if ``kind`` has that key."""
    if not variable.startswith(ENVIRONMENT_PREFIX):
        return None
    section, _, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("_")
    root = inspect.type_info(kind)
    assert isinstance(root, inspect.StructType)
    node = _child(root, section, None)
    if isinstance(node, inspect.StructType) and any(f.encode_name == key for f in node.fields):
        return f"{section}.{key}"
    return None


def _assign(tree: dict[str, Any], dotted: str, text: str) -> None:
    *sections, key = dotted.split(".")
    for section in sections:
        child = tree.setdefault(section, {})
        if not isinstance(child, dict):
            raise ConfigError("is a value, not a section", where=f"--set {dotted}")
        tree = child
    tree[key] = _parse_value(text)


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
