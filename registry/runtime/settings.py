"""Strict typed settings from TOML. An unknown key, a wrong type or a value out of range is an error; it names
the file, the key, what was found, what is allowed and the nearest valid key.

Precedence: flag (``--set a.b=1``) > environment (``TIMBERLINE_A_B=1``) > file > default.

msgspec says where a value of the wrong type stands, but not under which key of a table of named things
(``columns[...]``), and not what else is valid. `find_fault` walks the tree and the types side by side and
finds both.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from timberline.registry.errors import ConfigError
from timberline.registry.runtime.documents import decode_toml

T = TypeVar("T", bound=msgspec.Struct)
ENVIRONMENT_PREFIX = "TIMBERLINE_"


class PathsSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[paths]`` of model.toml: where data and runs lie, relative to the working directory.

    Not where the registry is: it holds many models, so no one model's file can say.
    """

    data: str = "var/data"


class LoggingSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[logging]`` of model.toml; ``auto`` is human on a terminal and JSON lines otherwise."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "human", "json"] = "auto"


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
        tree = decode_toml(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError("no such file", where=str(path)) from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"not valid TOML: {error}", where=str(path)) from error
    changed = _apply_environment(tree, kind, environment or {})
    changed.update(apply_overrides(tree, overrides))
    return convert_settings(tree, kind, where=str(path), changed=changed)


def apply_overrides(tree: dict[str, Any], overrides: Iterable[str]) -> dict[str, str]:
    """Set ``section.key=value`` strings in ``tree``; return where each changed key came from.

    The key is written as in TOML, so that one with a dot is quoted: ``columns."a.b".default=1``.

    Raises:
        ConfigError: an override is not of this form, or goes through a value as if it were a section.
    """
    changed: dict[str, str] = {}
    for override in overrides:
        dotted, equals, text = override.partition("=")
        path = _parse_key(dotted)
        if not equals or not path:
            raise ConfigError(f"found {override[:80]!r}, expected section.key=value", where="--set")
        origin = f"--set {format_path(path)}"
        _assign(tree, path, text.strip(), origin)
        changed[format_path(path)] = origin
    return changed


def convert_settings(
    tree: Mapping[str, Any], kind: type[T], *, where: str, changed: Mapping[str, str] | None = None
) -> T:
    """Turn a parsed tree into ``kind``; ``changed`` names where overridden keys came from.

    Raises:
        ConfigError: the tree does not describe a ``kind``; names the file or override, and the key.
    """
    tree = _name_default_kinds(tree, kind)
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        fault = find_fault(error, tree, kind)
    dotted = format_path(fault.path)
    origin = next((source for key, source in (changed or {}).items() if _covers(key, dotted)), where)
    where = origin if not dotted or origin.endswith(f" {dotted}") else f"{origin}: {dotted}"
    raise ConfigError(fault.what, where=where, hint=fault.allowed)


def _name_default_kinds(tree: Mapping[str, Any], kind: type[msgspec.Struct]) -> dict[str, Any]:
    """``tree`` with the default's kind in every table that has a default and names no kind itself."""
    named = dict(tree)
    for field in msgspec.structs.fields(kind):
        default, table = field.default, tree.get(field.encode_name)
        if not (isinstance(default, msgspec.Struct) and isinstance(table, Mapping)):
            continue
        tag_field, tag = default.__struct_config__.tag_field, default.__struct_config__.tag
        if tag_field and tag_field not in table:
            named[field.encode_name] = {tag_field: tag, **table}
    return named


def _covers(key: str, dotted: str) -> bool:
    return dotted == key or dotted.startswith((f"{key}.", f"{key}[")) or key.startswith(f"{dotted}.")


def _apply_environment(tree: dict[str, Any], kind: type, environment: Mapping[str, str]) -> dict[str, str]:
    changed: dict[str, str] = {}
    for name, text in sorted(environment.items()):
        path = _find_key(name, kind)
        if path:
            _assign(tree, path, text, f"environment {name}")
            changed[format_path(path)] = f"environment {name}"
    return changed


def _find_key(variable: str, kind: type) -> tuple[str, ...]:
    """``TIMBERLINE_TRAINING_BATCH_ROWS`` → ``("training", "batch_rows")`` if ``kind`` has that key."""
    name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
    if not variable.startswith(ENVIRONMENT_PREFIX):
        return ()
    for section in list_keys(kind):
        key = name.removeprefix(f"{section}_")
        if key != name and key in list_keys(child_hint(kind, section, None)):
            return (section, key)
    return ()


def _parse_key(dotted: str) -> tuple[str, ...]:
    """The steps of a dotted TOML key; none if it is not one."""
    try:
        tree: Any = decode_toml(f"{dotted} = 0")
    except msgspec.DecodeError:
        return ()
    path: list[str] = []
    while isinstance(tree, dict) and len(tree) == 1:
        ((step, tree),) = tree.items()
        path.append(step)
    return tuple(path) if tree == 0 else ()


def _assign(tree: dict[str, Any], path: tuple[str, ...], text: str, origin: str) -> None:
    *sections, key = path
    for depth, section in enumerate(sections, 1):
        child = tree.setdefault(section, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{format_path(path[:depth])} is a value, not a section", where=origin)
        tree = child
    tree[key] = _parse_value(text)


def _parse_value(text: str) -> Any:
    try:
        tree = decode_toml(f"value = {text}")
    except msgspec.DecodeError:
        return text
    return tree["value"] if len(tree) == 1 else text


KeyPath = tuple[str | int, ...]

_LOCATION = re.compile(r" - at `(?P<key>key` in `)?\$(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+)\]|\[\.\.\.\]")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# msgspec's words → TOML's.
_WORDS = {
    "object": "table",
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "null": "nothing",
}


class Fault(msgspec.Struct, frozen=True):
    """Where a tree is wrong, how, and what is allowed there (may be empty)."""

    path: KeyPath
    what: str
    allowed: str = ""


def find_fault(error: msgspec.ValidationError, tree: Mapping[str, Any], kind: type) -> Fault:
    """Explain why ``msgspec.convert(tree, kind)`` raised ``error``."""
    location = _LOCATION.search(str(error))
    message = str(error)[: location.start()] if location else str(error)
    path, hint, value = _walk(location["path"] if location else "", tree, kind)
    if unknown := re.search(r"unknown field `(.*)`$", message):
        return _unknown_key(path, unknown[1], list_keys(hint, value))
    if missing := re.search(r"missing required field `(.*)`$", message):
        tags = _list_tags(hint) if missing[1] == _tag_field(hint) else []
        return Fault(path, f"required key {missing[1]!r} is missing", _one_of(tags))
    if re.match(r"Invalid (enum )?value ", message):
        options = list_options(hint)
        suggestion = _suggest(str(value), map(str, options))
        return Fault(path, f"found {_shorten(value)}{suggestion}", _one_of(options))
    if expected := re.match(r"Expected (.*?)(, got .*)?$", message):
        words = re.sub(r"`([^`]*)`", lambda word: _translate(word[1]), expected[1])
        key = " as a key" if location and location["key"] else ""
        return Fault(path, f"found {_shorten(value)}{key}, expected {words}")
    return Fault(path, message)  # a rule of ours, raised in a __post_init__


def format_path(path: KeyPath) -> str:
    """``("columns", "Soil Type", "range", 0)`` → ``columns."Soil Type".range[0]``."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if _BARE_KEY.fullmatch(step) else f'."{step}"'
    return text.removeprefix(".")


def list_keys(hint: Any, value: object = None) -> list[str]:
    """The keys that a table of type ``hint`` may have; of all its kinds, unless ``value`` shows the kind."""
    hint = _narrow(hint, value)
    keys: dict[str, None] = {}
    for struct in _options(hint):
        if _is_struct(struct):
            tag = struct.__struct_config__.tag_field
            fields = msgspec.structs.fields(struct)
            keys.update(dict.fromkeys([*([tag] if tag else []), *(field.encode_name for field in fields)]))
    return list(keys)


def list_options(hint: Any) -> list[object]:
    """The words that may stand for ``hint``: of a ``Literal``, or the kinds of a tagged table."""
    options = [word for option in _options(hint) for word in typing.get_args(option) if _is_literal(option)]
    return options or list(_list_tags(hint))


def child_hint(hint: Any, step: str | int | None, value: object) -> Any:
    """The type at ``step`` (None: any key of a table of named things) below a ``value`` of type ``hint``."""
    hint = _narrow(hint, value)
    arguments = typing.get_args(hint)
    if isinstance(step, str) and _is_struct(hint):
        return next((f.type for f in msgspec.structs.fields(hint) if f.encode_name == step), Any)
    if step is None and arguments:
        return arguments[-1]
    if isinstance(step, int) and arguments:
        return arguments[0] if Ellipsis in arguments or len(arguments) <= step else arguments[step]
    return Any


def _walk(location: str, value: Any, hint: Any) -> tuple[KeyPath, Any, Any]:
    """Follow msgspec's ``.columns[...].range[1]``: the real path, and type and value at its end."""
    path: list[str | int] = []
    for match in _STEP.finditer(location):
        step: str | int | None = match["name"] or (int(match["index"]) if match["index"] else None)
        below = child_hint(hint, step, value)
        if step is None:
            step = _find_bad_key(value, below)
        tag = _tag_field(hint)
        if step is None or not _has(value, step):
            break
        path.append(step)
        # A wrong tag is a fault of the table's type: its options are the tags, not the tag's own type.
        hint, value = hint if step == tag else below, value[step]
    return tuple(path), hint, value


def _find_bad_key(table: Mapping[str, Any], hint: Any) -> str | None:
    for key, value in table.items():
        try:
            msgspec.convert(value, hint)
        except msgspec.ValidationError:
            return key
    return None


def _has(value: Any, step: str | int) -> bool:
    if isinstance(step, int):
        return isinstance(value, Sequence) and step < len(value)
    return isinstance(value, Mapping) and step in value


def _unknown_key(path: KeyPath, key: str, valid: list[str]) -> Fault:
    what = f"unknown key {key!r}{_suggest(key, valid, cutoff=0.5)}"
    return Fault((*path, key), what, f"Allowed here: {', '.join(valid)}.")


def _suggest(text: str, options: Iterable[str], cutoff: float = 0.6) -> str:
    near = difflib.get_close_matches(text, list(options), n=1, cutoff=cutoff)
    return f", did you mean {near[0]!r}?" if near else ""


def _narrow(hint: Any, value: object) -> Any:
    """Of a choice of types the one that ``value`` is meant for, if its tag or its shape says so."""
    options = _options(hint)
    if len(options) == 1:
        return options[0]
    if isinstance(value, Mapping):
        structs = [option for option in options if _is_struct(option)]
        for struct in structs:
            if value.get(struct.__struct_config__.tag_field) == struct.__struct_config__.tag:
                return struct
        return structs[0] if len(structs) == 1 else hint
    return next((option for option in options if typing.get_origin(option) in (list, tuple)), hint)


def _options(hint: Any) -> list[Any]:
    """The members of a union, flat and without annotations; a type that is none is its own only member."""
    if typing.get_origin(hint) is typing.Annotated:
        return _options(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [option for member in typing.get_args(hint) for option in _options(member)]
    return [hint]


def _is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def _is_literal(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.Literal


def _tag_field(hint: Any) -> str | None:
    fields = (option.__struct_config__.tag_field for option in _options(hint) if _is_struct(option))
    return next((field for field in fields if field), None)


def _list_tags(hint: Any) -> list[str]:
    tags = (option.__struct_config__.tag for option in _options(hint) if _is_struct(option))
    return [str(tag) for tag in tags if tag is not None]


def _one_of(options: Sequence[object]) -> str:
    return f"Allowed: {', '.join(map(repr, options))}." if options else ""


def _translate(words: str) -> str:
    return " or ".join(_WORDS.get(word, word) for word in words.split(" | "))


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
