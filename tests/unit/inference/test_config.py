"""Settings of the service: where they come from and what is refused."""

from __future__ import annotations

import pytest

from inference.__main__ import _FLAGS
from inference.config import ServiceConfig, environment_name, resolve_config
from registry.errors import ConfigError


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_default() -> None:
    """The order every operator expects; a container sets variables and a person overrides with a flag."""
    environment = {"PORT": "9000", "HOST": "0.0.0.0", "TIMBERLINE_SERVE_MAX_ROWS": "5"}
    config = resolve_config({"port": "7000", "host": None}, environment)
    assert (config.port, config.host, config.max_rows) == (7000, "0.0.0.0", 5)
    assert config.inline_max_rows == ServiceConfig().inline_max_rows


def test_an_empty_variable_counts_as_not_set() -> None:
    """Compose files pass variables on whether they are set or not."""
    assert resolve_config({}, {"PORT": ""}).port == 8000


@pytest.mark.parametrize(
    ("flags", "environment", "message"),
    [
        ({"port": "70000"}, {}, "--port: found '70000': expected `int` <= 65535"),
        ({}, {"PORT": "http"}, "environment PORT: found 'http'"),
        ({"workers": "0"}, {}, "--workers: found '0'"),
        ({"max_rows": "0"}, {}, "--max-rows: found '0'"),
        ({}, {"TIMBERLINE_SERVE_MAXROWS": "5"}, "environment TIMBERLINE_SERVE_MAXROWS: no such setting"),
    ],
)
def test_a_wrong_setting_names_its_origin(
    flags: dict[str, str | None], environment: dict[str, str], message: str
) -> None:
    """A setting that is silently ignored is found when it is missed."""
    with pytest.raises(ConfigError) as caught:
        resolve_config(flags, environment)
    assert str(caught.value).startswith(message)


def test_every_setting_has_a_flag_and_a_variable() -> None:
    """A setting that cannot be set from outside is a constant in disguise."""
    keys = ServiceConfig.__struct_fields__
    secret = {"tokens"}  # a command line is read by everybody on the machine
    assert [name.replace("-", "_") for name in _FLAGS] == [key for key in keys if key not in secret]
    assert len({environment_name(key) for key in keys}) == len(keys)
