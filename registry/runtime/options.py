"""Options that mean the same for every verb: MODEL, ``--models``, ``--data``, ``--registry``, ``--set``.

A flag comes before the variable of the environment (``MODEL``, ``MODELS``, ``DATA``, ``REGISTRY``), and that
before the default.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from timberline.registry.runtime.settings import PathsSection

Verbs = (
    argparse._SubParsersAction
)  # what `ArgumentParser.add_subparsers` returns; argparse names it nowhere else
Place = Literal["models", "data", "registry", "set"]

DEFAULT_MODEL = "forest_cover"
DEFAULT_REGISTRY = "var/registry"


def add_verb(
    verbs: Verbs[argparse.ArgumentParser],
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], int],
    *places: Place,
    model: str | None = "MODEL",
) -> argparse.ArgumentParser:
    """Add a verb whose parsed options go to ``run``, which returns the exit code.

    Args:
        places: which of the shared options it has.
        model: how its help writes the model, its first argument; None where it has none.
    """
    verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:])
    verb.set_defaults(run=run)
    if model is not None:
        add_model(verb, model)
    if "models" in places:
        verb.add_argument(
            "--models",
            type=Path,
            metavar="DIR",
            default=Path(_read("MODELS", "models")),
            help="folder of model folders (default models)",
        )
    if "data" in places:
        verb.add_argument(
            "--data",
            metavar="PLACE",
            default=_read("DATA", "") or None,
            help="data, runs and reports: a folder or s3://bucket/prefix "
            "(default var/data; [paths] data where model.toml is read)",
        )
    if "registry" in places:
        verb.add_argument(
            "--registry",
            metavar="PLACE",
            default=_read("REGISTRY", DEFAULT_REGISTRY),
            help=f"the registry: a folder or s3://bucket/prefix (default {DEFAULT_REGISTRY})",
        )
    if "set" in places:
        verb.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="SECTION.KEY=VALUE",
            help="override a setting; may be repeated",
        )
    add_log_options(verb)
    return verb


def add_model(verb: argparse.ArgumentParser, metavar: str) -> None:
    """MODEL as the first argument, or as ``--model``; ``options.model`` is "" where neither is given."""
    verb.add_argument("model", nargs="?", action=_Model, default=argparse.SUPPRESS, metavar=metavar)
    verb.add_argument("--model", action=_Model, default="", metavar=metavar, help="the same as a flag")


def add_log_options(verb: argparse.ArgumentParser) -> None:
    """``--log-level`` and ``--log-format``; None where not given."""
    verb.add_argument("--log-level", choices=["debug", "info", "warning", "error"], help="default info")
    verb.add_argument(
        "--log-format", choices=["auto", "human", "json"], help="default auto: human on a terminal"
    )


def find_model(options: argparse.Namespace) -> str:
    """The model that the options name, else the environment's ``MODEL``, else the reference model."""
    return options.model or _read("MODEL", DEFAULT_MODEL)


def find_data(options: argparse.Namespace) -> str:
    """Where the data is, for a verb that reads no model.toml: a folder or a bucket."""
    return options.data or PathsSection().data


class _Model(argparse.Action):
    """Take the model from either of its two places; two different ones are wrong use."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, "model", "")
        if before and before != values:
            parser.error(f"the model is given twice: {before} and {values}")
        namespace.model = values


def _read(variable: str, default: str) -> str:
    """A variable of the environment; an empty one is not set, as shells and compose files write nothing."""
    return os.environ.get(variable) or default
