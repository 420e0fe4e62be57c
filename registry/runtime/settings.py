"""Strict typed settings from TOML: an unknown key, wrong type or value out of range is an error
that names the file, the key, what was found, what is allowed and the nearest valid key.

Precedence: flag (``--set a.b=1``) > environment (``TIMBERLINE_A_B=1``) > file > default.
`registry/runtime/explain.py` words the errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from timberline.registry.errors import ConfigError
from timberline.registry.runtime.documents import decode_toml
from timberline.registry.runtime.explain import child_hint, find_fault, format_path, list_keys

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
        ConfigError: the tree does not describe a ``kind``; told with file or override, and key.
    """
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        fault = find_fault(error, tree, kind)
    dotted = format_path(fault.path)
    origin = next((source for key, source in (changed or {}).items() if _covers(key, dotted)), where)
    place = origin if not dotted or origin.endswith(f" {dotted}") else f"{origin}: {dotted}"
    raise ConfigError(fault.what, where=place, hint=fault.allowed)


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
