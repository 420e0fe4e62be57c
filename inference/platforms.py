"""Managed platforms' contracts: where they say how to listen, and the routes that they ask.

- Amazon SageMaker: port 8080 (or ``SAGEMAKER_BIND_TO_PORT``), ``GET /ping``, ``POST /invocations``. It runs
  ``docker run IMAGE serve``, promises no variable, and unpacks the model's archive at ``/opt/ml/model``.
- Google Vertex AI: ``AIP_HTTP_PORT``, ``AIP_HEALTH_ROUTE`` and ``AIP_PREDICT_ROUTE``.

What they ask for are defaults: a flag or a variable of the service's own comes before them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from timberline.inference.formats.request import Handler
from timberline.registry.errors import ConfigError
from timberline.registry.names import check_name

# "SageMaker AI hosting containers: How SageMaker AI Loads Your Model Artifacts".
SAGEMAKER_FOLDER = "/opt/ml/model"

_PREFIXES = ("AIP_", "SAGEMAKER_")
# By setting: the variables that it is taken from.
_VARIABLES = {
    "port": ("AIP_HTTP_PORT", "SAGEMAKER_BIND_TO_PORT"),
    "health_route": ("AIP_HEALTH_ROUTE",),
    "predict_route": ("AIP_PREDICT_ROUTE",),
}
# What a request's path can hold as it stands (RFC 3986, 3.3): no query, no escape, no pattern.
_ROUTE = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*\Z")

# A whole path is looked up before patterns are tried, so that one may stand where these patterns reach.
_SHADOWED = "/v1/models/"
_PARAMETER = re.compile(r"\{[a-z]+\}")

Rows = list[tuple[str, Mapping[str, Handler]]]


def read_platform(
    environment: Mapping[str, str], sagemaker_folder: str = SAGEMAKER_FOLDER
) -> dict[str, tuple[str, str]]:
    """By setting: what the platform that we seem to run on wants it to be, and where that was read.

    A platform talks to the container from outside, so that under one the host is every address.

    Args:
        environment: variables by name; empty ones count as not set.
        sagemaker_folder: the registry, if there is such a folder; if it holds one model only, that is
            the default one, as a registry of one model is what an archive usually is.
    """
    found: dict[str, tuple[str, str]] = {}
    if os.path.isdir(sagemaker_folder):  # noqa: PTH112 - Path.is_dir raises where nothing may be looked up
        found = {"host": ("0.0.0.0", sagemaker_folder), "port": ("8080", sagemaker_folder)}
        found["registry"] = (sagemaker_folder, sagemaker_folder)
        if len(models := _list_models(sagemaker_folder)) == 1:
            found["model"] = (models[0], sagemaker_folder)
    for name in sorted(environment):
        if name.startswith(_PREFIXES) and environment[name]:
            found["host"] = ("0.0.0.0", f"environment {name}")
            if name.startswith("SAGEMAKER_"):
                found["port"] = ("8080", f"environment {name}")
    for key, names in _VARIABLES.items():
        for name in names:
            if environment.get(name):
                found[key] = (environment[name], f"environment {name}")
    return found


def _list_models(folder: str) -> list[str]:
    """Folders that are called like models; none where the folder cannot be read, which loading reports."""
    try:
        return [entry.name for entry in Path(folder).iterdir() if _is_model(entry)]
    except OSError:
        return []


def _is_model(folder: Path) -> bool:
    try:
        check_name(folder.name, "a model")
    except ConfigError:  # .staging, lost+found
        return False
    return folder.is_dir()


def check_route(route: str, *, where: str) -> None:
    """Refuse a path that no request can have, or that starlette would take for a pattern.

    Raises:
        ConfigError: it is one; ``where`` is where it was set.
    """
    if not _ROUTE.match(route):
        raise ConfigError(
            f"found {route!r:.80}, expected a path such as /score",
            where=where,
            hint="It begins with a slash.",
        )


def add_routes(
    rows: Rows, predict: Handler, ready: Handler, *, predict_route: str = "", health_route: str = ""
) -> None:
    """Add the platforms' routes to the table ``rows``: the fixed ones and, if given, the configured.

    A configured route that already does what it is wanted for is left as it is. One that looks like
    another model's in v1 is added: platforms that were set up for TensorFlow Serving name it so.

    Raises:
        ConfigError: a configured route is taken by something else.
    """
    rows += [("/ping", {"GET": ready}), ("/invocations", {"POST": predict})]
    for setting, route, method, handler in (
        ("predict route", predict_route, "POST", predict),
        ("health route", health_route, "GET", ready),
    ):
        taken = _find_taken(rows, route)
        if taken is None and route:
            rows.append((route, {method: handler}))
        elif taken is not None and dict(rows)[taken].get(method) != handler:
            raise ConfigError(
                f"{route} is taken by the service's own {taken}", where=setting, hint="Choose another path."
            )


def _find_taken(rows: Iterable[tuple[str, object]], route: str) -> str | None:
    for path, _ in rows:
        if not path.startswith(_SHADOWED) and re.fullmatch(
            "[^/]+".join(map(re.escape, _PARAMETER.split(path))), route
        ):
            return path
    return None
