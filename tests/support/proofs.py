"""Checks of what lies under ``deploy/``: how each is proven, with which tools, and their count at the end.

    pytestmark = pytest.mark.real("dockerd", "skopeo")   # the thing itself runs
    pytestmark = pytest.mark.offline("helm")             # a tool of the platform's makers reads it

Every test of `FOLDERS` has one of the two marks (the nearest counts) and names the tools that it needs. A
tool that is not there fails the test with the way to get it, unless ``SKIP="dockerd helm"`` names it: then
the test is skipped, and the last line says so.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    ROOT / "tests" / "images": "images-test",
    ROOT / "tests" / "deploy": "deploy-test",
    ROOT / "tests" / "cluster": "cluster-test",
}
KINDS: Mapping[str, str] = {"real": "run for real", "offline": "validated offline"}
# Programs by name and Debian's package of each. Those without one come in environments that the tests make
# themselves (tests/support/clients.py): the name stands here so that SKIP can have it.
TOOLS: Mapping[str, str] = {
    "chromium": "chromium",
    "containerd": "containerd",
    "docker-compose": "docker-compose",
    "docker-registry": "docker-registry",
    "dockerd": "docker.io",
    "etcd": "etcd-server",
    "groovy": "groovy",
    "iptables": "iptables",
    "mmdebstrap": "mmdebstrap",
    "npm": "npm",
    "prometheus": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "ptp": "containernetworking-plugins",
    "rsync": "rsync",
    "skopeo": "skopeo",
    "systemd-analyze": "systemd",
    "act": "",
    "aws": "",
    "cfn-lint": "",
    "compose-spec": "",
    "checkov": "",
    "cyclonedx": "",
    "gitlab-ci-local": "",
    "helm": "",
    "kserve": "",
    "kubernetes": "",
    "kubernetes-models": "",
    "kubernetes-validate": "",
    "moto": "",
    "syft": "",
}
SEARCHED = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/lib/cni"])


def list_skipped() -> set[str]:
    """The tools that the caller does without. Raises `pytest.UsageError` for a name that is none."""
    names = set(os.environ.get("SKIP", "").replace(",", " ").split())
    if unknown := names - set(TOOLS):
        raise pytest.UsageError(f"SKIP: {', '.join(sorted(unknown))} is none of {', '.join(sorted(TOOLS))}")
    return names


def need(*names: str) -> None:
    """Skip the test if the caller does without one of the tools, fail it if one is not there."""
    if without := list_skipped() & set(names):
        pytest.skip(f"SKIP={' '.join(sorted(without))}")
    packages = [TOOLS[name] for name in names if TOOLS[name] and not shutil.which(name, path=SEARCHED)]
    if packages:
        tools = " ".join(names)
        pytest.fail(f"apt-get install {' '.join(packages)}, or SKIP the tool: one of {tools}", pytrace=False)


def target_of(item: pytest.Item) -> str:
    """The target of make that runs a test of `FOLDERS`; ``""`` for every other test."""
    return next((target for folder, target in FOLDERS.items() if folder in item.path.parents), "")


def kind_of(item: pytest.Item) -> str:
    """How a test of `FOLDERS` proves what it says. Raises `pytest.UsageError` if it does not tell."""
    found = [mark.name for mark in item.iter_markers() if mark.name in KINDS]
    if not found:
        raise pytest.UsageError(f"{item.nodeid} is marked neither real nor offline")
    return found[0]


def pytest_configure(config: pytest.Config) -> None:
    """Make the marks known, and count on the process that hears of every test."""
    for kind, said in KINDS.items():
        config.addinivalue_line("markers", f"{kind}(*tools): {said}, with tools of tests/support/proofs.py")
    if not hasattr(config, "workerinput"):
        list_skipped()
        config.pluginmanager.register(Count(), "count of proofs")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each test carry its target and kind to the process that counts."""
    for item in items:
        if target := target_of(item):
            item.user_properties.append(("proof", (target, kind_of(item))))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture of it: are the tools of the test there?"""
    if target_of(item):
        need(*(str(name) for mark in item.iter_markers() if mark.name in KINDS for name in mark.args))


class Count:
    """Tests that passed by kind, and those that were skipped by tool."""

    def __init__(self) -> None:
        """Nothing is counted yet."""
        self.passed: Counter[str] = Counter()
        self.failed = 0
        self.skipped: Counter[str] = Counter()
        self.target = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test once: where it was called, or where it ended before."""
        proof = dict(report.user_properties).get("proof")
        if not isinstance(proof, tuple | list):  # a list where it came from another process
            return
        self.target, kind = proof
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
            self.skipped[reason.removeprefix("Skipped: ").removeprefix("SKIP=")] += 1
        elif report.failed:
            self.failed += 1
        elif report.when == "call":
            self.passed[kind] += 1

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Print the last line of all."""
        if not self.target:
            return
        counts = [f"{self.passed[kind]} {said}" for kind, said in KINDS.items()]
        tools = f" ({', '.join(sorted(self.skipped))})" if self.skipped else ""
        failed = f"{self.failed} failed, " if self.failed else ""
        print(f"{self.target}: {failed}checks {', '.join(counts)}, {self.skipped.total()} skipped{tools}")
