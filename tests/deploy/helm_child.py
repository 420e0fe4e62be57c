"""Helm's Go SDK as pip installs it, in a process of its own; run in the client ``helm``.

Reads orders, a list of {"chart", "values", "kube_version", "lint"}, as JSON from standard input and prints
for each what Helm made of it: {"manifests"} by template, {"messages"} of a linter, or {"error"}.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import helm_python as helm
from helm_python import _native

RELEASE, NAMESPACE = "timberline", "models"


def render(order: dict[str, Any]) -> dict[str, Any]:
    """What an installation would send to a cluster of this version."""
    # The SDK's own `render` has no argument for the cluster's version; the library below it has.
    more = {"name": RELEASE, "namespace": NAMESPACE, "revision": 1, "is_install": True}
    more |= {"kube_version": order["kube_version"], "strict": True}
    with helm.Chart.load(order["chart"]) as chart:
        chart.validate_schema(chart.merge_values(order["values"]))
        text = _native.call_string("helm_render", chart._raw(), json.dumps(order["values"]), json.dumps(more))
    return {"manifests": json.loads(text)}


def lint(order: dict[str, Any]) -> dict[str, Any]:
    """What `helm lint --strict` finds."""
    report = helm.lint(order["chart"], order["values"], strict=True, kube_version=order["kube_version"])
    return {"messages": report["messages"], "errors": report["errors"]}


def main() -> None:
    """Answer every order, the failed ones too."""
    answers = []
    for order in json.load(sys.stdin):
        try:
            answers.append(lint(order) if order["lint"] else render(order))
        except helm.HelmError as error:
            answers.append({"error": str(error)})
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
