"""docs/how-to/kubernetes.md: its blocks that ask a cluster, done in order in a real one, as a reader does.

The cluster has the images that the chart names by default, a volume for its claim, and on it a registry with
a version in production and a candidate that passed: what the page says to bring along.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.installed import RELEASE, give_away, make_volume
from tests.support.manifests import give_verdict
from tests.support.markdown import ROOT
from tests.support.tiny_model import publish_numeric
from tests.support.walkthrough import Walkthrough
from timberline.registry.aliases import read_alias
from timberline.registry.names import PRODUCTION
from timberline.registry.store import open_store

pytestmark = pytest.mark.real(
    "kubernetes", "dockerd", "mmdebstrap", "etcd", "containerd", "iptables", "ptp", "helm"
)
PAGE = ROOT / "docs" / "how-to" / "kubernetes.md"
NAMESPACE = "models"
MODEL = "forest_cover"


def test_every_command_that_asks_a_cluster_does_what_the_page_says(cluster: Cluster, tmp_path: Path) -> None:
    """From the installation to the rollback, with the chart's own values."""
    volume = make_volume(cluster, NAMESPACE)
    store = open_store(volume / "registry")
    publish_numeric(store, MODEL)
    candidate = publish_numeric(store, MODEL, alias="candidate", scale=-1.0)
    give_verdict(store, MODEL, candidate)
    give_away(volume)
    with Walkthrough(tmp_path, cluster.environment) as reader:
        for name, command in cluster.commands.items():
            reader.provide(name, f'#!/bin/sh\nexec {" ".join(cluster.enter(*command))} "$@"\n')
        assert reader.follow(PAGE, only="cluster") > 4
    promoted = read_alias(store, MODEL, PRODUCTION)
    assert promoted is not None
    assert promoted.version == candidate
    cluster.helm("uninstall", RELEASE, "-n", NAMESPACE, "--wait")
