"""Platforms' variables: what they ask for, and what comes before them."""

from __future__ import annotations

from pathlib import Path

import pytest

from timberline.inference.config import ServiceConfig, resolve_config
from timberline.registry.errors import ConfigError


@pytest.mark.parametrize(
    ("environment", "host", "port", "health_route", "predict_route"),
    [
        ({}, "127.0.0.1", 8000, "", ""),
        ({"AIP_HTTP_PORT": "8080"}, "0.0.0.0", 8080, "", ""),
        ({"AIP_MODE": "PREDICTION", "AIP_HEALTH_ROUTE": "/h"}, "0.0.0.0", 8000, "/h", ""),
        ({"AIP_HTTP_PORT": "", "SAGEMAKER_REGION": ""}, "127.0.0.1", 8000, "", ""),
        ({"SAGEMAKER_REGION": "eu-west-1"}, "0.0.0.0", 8080, "", ""),
        ({"SAGEMAKER_BIND_TO_PORT": "9000", "SAGEMAKER_REGION": "x"}, "0.0.0.0", 9000, "", ""),
        ({"SAGEMAKER_BIND_TO_PORT": "9000", "PORT": "7000", "HOST": "::1"}, "::1", 7000, "", ""),
        (
            {"AIP_PREDICT_ROUTE": "/a", "TIMBERLINE_SERVE_PREDICT_ROUTE": "/b", "AIP_HEALTH_ROUTE": "/h"},
            *("0.0.0.0", 8000, "/h", "/b"),
        ),
    ],
)
def test_a_platforms_variables_are_defaults(
    environment: dict[str, str], host: str, port: int, health_route: str, predict_route: str
) -> None:
    """The same image runs on both platforms and on neither, and its own settings stay in force."""
    config = resolve_config({}, environment)
    found = (config.host, config.port, config.health_route, config.predict_route)
    assert found == (host, port, health_route, predict_route)


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        ({}, {}, ("0.0.0.0", 8080, "", "tiny")),
        ({}, {"SAGEMAKER_BIND_TO_PORT": "9000"}, ("0.0.0.0", 9000, "", "tiny")),
        ({}, {"AIP_HTTP_PORT": "9001"}, ("0.0.0.0", 9001, "", "tiny")),
        (
            {},
            {"PORT": "7000", "HOST": "::1", "REGISTRY": "/registry", "MODEL": "rain@3"},
            ("::1", 7000, "/registry", "rain@3"),
        ),
        (
            {"port": "0", "host": "127.0.0.1", "registry": "here", "model": "rain"},
            {"PORT": "7000", "REGISTRY": "/registry"},
            ("127.0.0.1", 0, "here", "rain"),
        ),
    ],
)
def test_the_folder_of_sagemaker_is_a_default_too(
    flags: dict[str, str], environment: dict[str, str], expected: tuple[str, int, str, str], tmp_path: Path
) -> None:
    """SageMaker promises the folder and no variable; whoever says otherwise means it."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / ".staging").mkdir()
    (tmp_path / "notes").write_text("no model")
    config = resolve_config(flags, environment, sagemaker_folder=str(tmp_path))
    host, port, registry, model = expected
    found = (config.host, config.port, config.registry, config.model)
    assert found == (host, port, registry or str(tmp_path), model)


@pytest.mark.parametrize("models", [(), ("rain", "snow")])
def test_of_none_or_several_models_at_sagemakers_folder_none_is_chosen(
    models: tuple[str, ...], tmp_path: Path
) -> None:
    """Which one answers must not depend on what else is in an archive."""
    for model in models:
        (tmp_path / model).mkdir()
    config = resolve_config({}, {}, sagemaker_folder=str(tmp_path))
    assert (config.model, config.registry) == (ServiceConfig().model, str(tmp_path))


def test_a_file_in_the_place_of_sagemakers_folder_says_nothing(tmp_path: Path) -> None:
    """SageMaker unpacks an archive into a folder; a file of that name is no sign of it."""
    (tmp_path / "model").write_text("")
    assert resolve_config({}, {}, sagemaker_folder=str(tmp_path / "model")) == ServiceConfig()


def test_a_flag_wins_over_a_platforms_variable() -> None:
    """Somebody who says it at the start means it."""
    config = resolve_config({"port": "1", "host": "127.0.0.1"}, {"AIP_HTTP_PORT": "8080"})
    assert (config.port, config.host) == (1, "127.0.0.1")


def test_a_platforms_wrong_value_names_its_variable() -> None:
    """The variable is what somebody can look for, not the setting that it stands for."""
    with pytest.raises(ConfigError, match=r"^environment AIP_HTTP_PORT: found 'http'"):
        resolve_config({}, {"AIP_HTTP_PORT": "http"})
    with pytest.raises(ConfigError, match=r"^environment AIP_PREDICT_ROUTE: found 'x'"):
        resolve_config({}, {"AIP_PREDICT_ROUTE": "x"})
