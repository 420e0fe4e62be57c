"""compose.yaml, without an engine: what it names exists, and its uses are as far apart as its page says."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.compose import FILE, find_image, read_compose
from tests.support.dockerfiles import read_stages, texts
from tests.support.engine import ROOT
from tests.support.markdown import list_blocks
from timberline.inference.config import ServiceConfig

SERVICES: dict[str, Any] = read_compose()["services"]
PAGE = (ROOT / "docs" / "how-to" / "compose.md").read_text("utf-8")
CONTAINERS = (ROOT / "docs" / "how-to" / "containers.md").read_text("utf-8")
STAGES = [name for name, service in SERVICES.items() if service.get("profiles") == ["release"]]


def test_every_setting_of_the_service_exists() -> None:
    """An unknown one ends the service with 2, and it would be started again for ever."""
    fields = {field.upper() for field in ServiceConfig.__struct_fields__}
    named = {name for name in SERVICES["serve"]["environment"] if name.startswith("TIMBERLINE_SERVE_")}
    assert named
    assert {name.removeprefix("TIMBERLINE_SERVE_") for name in named} <= fields


def test_the_page_runs_every_stage_in_order() -> None:
    """A stage that is left out is found by the next one, after hours."""
    (loop,) = re.findall(r"^for stage in (.*); do$", PAGE, re.MULTILINE)
    assert loop.split() == STAGES
    assert [SERVICES[stage]["command"] for stage in STAGES] == [[stage] for stage in STAGES]


def test_a_stage_has_the_memory_that_was_measured_for_it() -> None:
    """The limits of containers.md; with less a stage is killed."""
    told = re.findall(r"^\| (`[^|]*`) \|[^|]*\|[^|]*\| ([\d.]+) (MB|GB) \|", CONTAINERS, re.MULTILINE)
    units = {"m": 1, "g": 1024, "MB": 1, "GB": 1024}
    limits = {
        name: float(number) * units[unit]
        for names, number, unit in told
        for name in re.findall(r"`(\w+)`", names)
    }
    for stage in STAGES:
        number, unit = re.fullmatch(r"(\d+)(\w)", SERVICES[stage]["mem_limit"]).groups()  # type: ignore[union-attr]
        assert int(number) * units[unit] == limits[stage], stage
    assert SERVICES["serve"]["mem_limit"] == "256m"


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_without_rights(name: str) -> None:
    """One that was added without the anchor would have all of them."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "pid", "network_mode"} & set(service)
    published = service.get("ports", [])
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert all(volume.endswith(":ro") for volume in service.get("volumes", []) if volume.startswith("."))


def test_each_use_has_an_account_and_only_fetch_has_a_way_out() -> None:
    """What reads foreign data cannot send it away, and what answers strangers cannot change a version."""
    accounts = {name: SERVICES[name]["environment"]["AWS_ACCESS_KEY_ID"] for name in (*STAGES, "serve")}
    trained = dict.fromkeys(("etl", "train", "evaluate", "export"), "train")
    assert accounts == {"fetch": "fetch", "gate": "gate", "promote": "promote", "serve": "serve"} | trained
    for name, account in accounts.items():
        environment = SERVICES[name]["environment"]
        assert environment["AWS_SECRET_ACCESS_KEY"].startswith(f"${{{account.upper()}_SECRET:?")
        assert ("KAGGLE_KEY" in environment) == (name == "fetch")
    assert [name for name in STAGES if "outside" in SERVICES[name]["networks"]] == ["fetch"]
    assert read_compose()["networks"]["inside"] == {"internal": True}
    assert "outside" not in SERVICES["s3"]["networks"]


def test_ports_and_files_are_those_of_the_others() -> None:
    """Who scrapes another port than the service has sees a service that is down."""
    (exposed,) = texts(read_stages(ROOT / "Dockerfile.serve")[""], "EXPOSE")
    assert SERVICES["serve"]["ports"] == [f"127.0.0.1:8000:{exposed}"]
    settings = (ROOT / "deploy" / "compose" / "prometheus.yml").read_text("utf-8")
    metrics = SERVICES["serve"]["environment"]["TIMBERLINE_SERVE_METRICS_PORT"]
    assert f'targets: ["serve:{metrics}"]' in settings
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            if volume.startswith("."):
                assert (ROOT / volume.partition(":")[0]).is_file(), volume
    assert {find_image(name) for name in (*STAGES, "serve")} == {
        "timberline-train",
        "timberline-tools",
        "timberline-serve",
    }


def test_the_page_makes_every_secret_that_the_file_asks_for() -> None:
    """A variable that is not set ends every command with the name of the page."""
    asked = set(re.findall(r"\$\{(\w+)_SECRET", FILE.read_text("utf-8")))
    code = "".join(block.code for block in list_blocks(PAGE) if block.language == "sh")
    (made,) = re.findall(r"for use in ([A-Z ]+); do", code)
    assert set(made.split()) == asked


def test_the_grace_is_longer_than_the_service_takes_to_end() -> None:
    """An engine that kills at ten seconds loses what is in flight."""
    (environment,) = texts(read_stages(ROOT / "Dockerfile.serve")[""], "ENV")
    drain = int(re.findall(r"TIMBERLINE_SERVE_DRAIN_S=(\d+)", environment)[0])
    grace = int(SERVICES["serve"]["stop_grace_period"].removesuffix("s"))
    assert grace > drain + ServiceConfig().shutdown_grace_s
