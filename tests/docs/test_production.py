"""docs/how-to/production.md, done as an operator does it, with the real nginx, curl and promtool."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.contract.test_docs_service import list_shown_families
from tests.support.manifests import give_verdict
from tests.support.markdown import ROOT, list_blocks
from tests.support.tiny_model import publish_wide
from tests.support.walkthrough import Walkthrough
from timberline.inference.config import ServiceConfig
from timberline.registry.store import open_store

PAGE = ROOT / "docs" / "how-to" / "production.md"
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
COLUMNS = ("Elevation", "Aspect", "Slope")
# Debian has nginx where a user's PATH may not reach.
SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
MISSING = [name for name in ("nginx", "promtool", "curl") if shutil.which(name, path=SEARCH) is None]

if MISSING:
    if os.environ.get("CI"):
        raise RuntimeError(f"CI has to install {MISSING}; .ci/run does")
    pytest.skip(f"not on this machine: {MISSING}", allow_module_level=True)


def test_every_command_of_the_page_does_what_it_says(tmp_path: Path) -> None:
    """An operator copies these at the worst of times: each has to work as it stands, in this order."""
    with Walkthrough(tmp_path, {"PATH": SEARCH}) as reader:
        store = open_store(reader.folder / "var" / "registry")
        publish_wide(store, "forest_cover", names=COLUMNS)
        publish_wide(store, "forest_cover", names=COLUMNS, alias="candidate")
        give_verdict(store, "forest_cover", 2)
        assert reader.follow(PAGE) > 20


def test_the_alerts_fire_on_what_they_are_for_and_on_nothing_else() -> None:
    """An alert that never fires is found on the day it was written for."""
    done = subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yml"],
        cwd=RULES.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_alerts_use_metrics_that_there_are() -> None:
    """A metric that was renamed leaves a rule that is valid and silent."""
    known = set(list_shown_families()) | {"up"}
    for rule in read_rules():
        named = set(re.findall(r"\b([a-z_]+)\{job=", rule["expr"]))
        assert named
        assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in named} <= known, rule["alert"]


def test_the_page_explains_every_alert() -> None:
    """Whoever is woken needs to know what to do, not only that something is wrong."""
    shown = re.findall(r"^\| `(Timberline\w+)` \|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert shown == [rule["alert"] for rule in read_rules()]


def test_managers_wait_for_longer_than_a_stop_may_take() -> None:
    """After less a request is cut off."""
    text = PAGE.read_text("utf-8")
    drain_s = float(re.findall(r"^TIMBERLINE_SERVE_DRAIN_S=(\d+)$", text, re.MULTILINE)[0])
    longest_s = drain_s + ServiceConfig().shutdown_grace_s
    (unit,) = [block.code for block in list_blocks(text) if block.language == "ini"]
    settings = configparser.ConfigParser()
    settings.read_string(unit)
    assert settings.getfloat("Service", "TimeoutStopSec") > longest_s
    (grace_s,) = re.findall(r"^terminationGracePeriodSeconds: (\d+)$", text, re.MULTILINE)
    assert float(grace_s) > longest_s


def read_rules() -> list[dict[str, str]]:
    """The rules of the committed file."""
    document = msgspec.yaml.decode(RULES.read_bytes(), type=dict[str, Any])
    rules: list[dict[str, str]] = document["groups"][0]["rules"]
    return rules
