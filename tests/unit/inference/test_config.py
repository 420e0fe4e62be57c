"""Settings of the service: where they come from and what is refused."""

from __future__ import annotations

import io

import pytest

from timberline.benchmarks.load.settings import LoadSettings
from timberline.benchmarks.settings import GateSettings
from timberline.inference.__main__ import _FLAGS
from timberline.inference.config import (
    ServiceConfig,
    environment_name,
    is_service_link,
    read_worker_config,
    resolve_config,
)
from timberline.registry.errors import ConfigError
from timberline.registry.runtime.settings import ENVIRONMENT_PREFIX, child_hint, list_keys
from timberline.training.config import ModelConfig


def link(service: str, *, protocol: str = "tcp", host: str = "10.0.0.7", port: int = 8000) -> dict[str, str]:
    """What Kubernetes sets for a Service with one named port (pkg/kubelet/envvars/envvars.go)."""
    name = service.upper().replace("-", "_")
    one = f"{name}_PORT_{port}_{protocol.upper()}"
    url = f"{protocol}://{host}:{port}"
    return {
        f"{name}_SERVICE_HOST": host,
        f"{name}_SERVICE_PORT": str(port),
        f"{name}_SERVICE_PORT_HTTP_METRICS": str(port),
        f"{name}_PORT": url,
        one: url,
        f"{one}_PROTO": protocol,
        f"{one}_PORT": str(port),
        f"{one}_ADDR": host,
    }


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
    assert ["model", *(name.replace("-", "_") for name in _FLAGS)] == [
        key for key in keys if key not in secret
    ]
    assert len({environment_name(key) for key in keys}) == len(keys)


@pytest.mark.parametrize(
    "links",
    [
        link("timberline-serve"),
        link("timberline-serve", protocol="udp", port=53),
        link("timberline-serve", protocol="sctp", host="[fd00::7]"),
        link("timberline-serve-canary"),
        link("timberline-serve-metrics"),  # its PORT has the name of a setting
        link("timberline"),
        link("model") | link("registry") | link("host") | link("port"),
        link("aip-http"),  # as has this one's
        link("aip-predict-route") | link("sagemaker-proxy") | link("sagemaker-bind-to"),
    ],
)
def test_links_to_services_are_nobodys_settings(links: dict[str, str]) -> None:
    """Every pod of a namespace gets them; a Service called like the program kept each from starting."""
    assert resolve_config({}, links) == ServiceConfig()
    beside = {"PORT": "9000", "TIMBERLINE_SERVE_MAX_ROWS": "5"}
    assert resolve_config({}, links | beside) == resolve_config({}, beside)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("TIMBERLINE_SERVE_PORT", "8000"),  # somebody who means PORT
        ("TIMBERLINE_SERVE_PORT", "http://x"),
        ("TIMBERLINE_SERVE_HOST", "10.0.0.7"),
        ("TIMBERLINE_SERVE_SERVICE", "x"),
        ("TIMBERLINE_SERVE_SERVICE_HOSTS", "x"),
        ("TIMBERLINE_SERVE_SERVICE_PORTS", "1"),
        ("TIMBERLINE_SERVE_PORT_HTTP_TCP", "tcp://10.0.0.7:8000"),
        ("TIMBERLINE_SERVE_PORT_8000_TCP_NAME", "x"),
        ("TIMBERLINE_SERVE_MODEL", "tcp://10.0.0.7:8000"),
    ],
)
def test_what_only_resembles_a_link_is_refused(name: str, text: str) -> None:
    """A misspelt setting must not pass as a link."""
    with pytest.raises(ConfigError, match=f"environment {name}: no such setting"):
        resolve_config({}, {name: text})


def test_a_link_in_a_settings_place_does_not_hide_a_wrong_value() -> None:
    """Only what has the form of a link is one."""
    with pytest.raises(ConfigError, match="environment TIMBERLINE_SERVE_METRICS_PORT: found 'tcp:9000'"):
        resolve_config({}, {"TIMBERLINE_SERVE_METRICS_PORT": "tcp:9000"})


@pytest.mark.parametrize("kind", [ModelConfig, GateSettings, LoadSettings])
def test_no_setting_of_another_part_can_be_taken_for_a_link(kind: type) -> None:
    """They pass over what they do not know; a key of theirs ending in "port" would be set by a Service."""
    sections = {section: list_keys(child_hint(kind, section, None)) for section in list_keys(kind)}
    names = [
        f"{ENVIRONMENT_PREFIX}{section}_{key}".upper() for section, keys in sections.items() for key in keys
    ]
    assert names
    assert [name for name in names if is_service_link(name, "tcp://10.0.0.7:8000")] == []


def test_a_worker_started_by_hand_says_what_to_start_instead() -> None:
    """The process list shows `worker` as if it were a verb."""
    for line in (b"", b"hello\n", b"{}\n"):
        with pytest.raises(ConfigError, match="these are no settings of a worker") as caught:
            read_worker_config(io.BytesIO(line))
        assert "timberline serve --workers" in caught.value.hint
