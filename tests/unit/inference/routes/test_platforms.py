"""Platforms' variables: what they ask for, and what comes before them."""

from __future__ import annotations

import pytest

from inference.config import resolve_config
from registry.errors import ConfigError


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
