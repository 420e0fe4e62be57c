"""The README names every key, operator and target that there is."""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import inspect

from inference.app import STATUSES
from inference.config import ServiceConfig
from registry.__main__ import _parser
from registry.aliases import ALIASES, HEADS
from registry.ledger import FOLDER
from registry.store import EVALUATION_FILE, MODEL_FILE
from registry.verdict import VERDICT_FILE
from registry.verification import MANIFEST_FILE
from training.config import ModelConfig
from training.features.language import OPERATORS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
SERVING = (ROOT / "docs" / "serving.md").read_text("utf-8")
REGISTRY = (ROOT / "docs" / "registry.md").read_text("utf-8")


def section(title: str) -> str:
    """The text under the second-level heading ``title``."""
    return README.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


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
    reference = section("model.toml")
    missing = [key for key in sorted(set(keys(inspect.type_info(ModelConfig)))) if key not in reference]
    assert missing == []


def test_the_reference_shows_the_real_defaults() -> None:
    """A default in the README that is not the default misleads worse than none."""
    block = re.search(r"```toml\n(.*?)```", section("model.toml"), re.DOTALL)
    assert block
    shown = tomllib.loads(block[1])
    defaults = {"etl", "features", "export", "paths", "logging"}
    root = inspect.type_info(ModelConfig)
    assert isinstance(root, inspect.StructType)
    for field in root.fields:
        if field.encode_name in defaults and isinstance(field.type, inspect.StructType):
            real = {f.encode_name: f.default for f in field.type.fields}
            told = {k: tuple(v) if isinstance(v, list) else v for k, v in shown[field.encode_name].items()}
            assert told == real


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_every_operator_is_in_the_table(operator: str) -> None:
    """The README's table is the language, no less."""
    written, meaning = OPERATORS[operator]
    assert f"| `{written}` | {meaning} |" in section("features.sql")


def test_every_target_named_in_the_readme_is_in_the_makefile() -> None:
    """A command that a reader types must be there."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z][a-z-]+)", README))
    assert named - targets - {"itself"} == set()
    assert {"setup", "fetch", "etl", "train", "evaluate", "export", "gate", "promote", "rollback"} <= targets
    assert {"release", "serve", "bench", "test", "help"} <= targets


@pytest.mark.parametrize("key", ServiceConfig.__struct_fields__)
def test_every_setting_of_the_service_is_in_its_reference(key: str) -> None:
    """As for a model folder."""
    name = "TIMBERLINE_SERVE_TOKENS" if key == "tokens" else f"--{key.replace('_', '-')}"
    assert f"`{name}`" in SERVING


def test_every_route_and_status_of_the_service_is_in_its_reference() -> None:
    """What a client may call, and what it may be told."""
    source = (ROOT / "inference" / "app.py").read_text("utf-8")
    routes = {route.replace("/versions/{version}", "") for route in re.findall(r'\("(/[^"]*)", \{', source)}
    assert len(routes) > 10
    told = re.sub(r"\[[^]]*\]", "", SERVING)  # optional parts
    assert [route for route in sorted(routes) if route.rstrip("/") not in told] == []
    statuses = {str(status) for status in STATUSES.values()} - {"499"}
    assert [status for status in sorted(statuses) if status not in SERVING] == []


def test_every_command_of_the_registry_is_on_its_page() -> None:
    """At night, with a damaged registry, the page is where to look."""
    (verbs,) = [each for each in _parser()._actions if isinstance(each, argparse._SubParsersAction)]
    missing = [verb for verb in verbs.choices if f"python -m registry {verb} " not in REGISTRY]
    assert missing == []


def test_every_document_and_folder_of_the_registry_is_on_its_page() -> None:
    """Whoever finds a file there wants to know what it is."""
    names = (ALIASES, HEADS, FOLDER, MODEL_FILE, EVALUATION_FILE, MANIFEST_FILE, VERDICT_FILE, "report.")
    assert [name for name in names if name not in REGISTRY] == []
