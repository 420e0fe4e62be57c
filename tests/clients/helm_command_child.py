"""The part of the `helm` command that the docs use, on Helm's own Go SDK; run in the client `helm`.

    helm_command_child.py upgrade --install RELEASE CHART -f values.yaml --set key=value --wait

Packages of Debian and of the indexes have no `helm` program; its library they have.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import helm_python as helm

WAIT = "watcher"  # what `--wait` means in Helm 4


def main() -> None:
    """One command; a failure is told on stderr and ends with 1, as with the program."""
    given = parse()
    try:
        with helm.Config(namespace=given.namespace) as config:
            print(COMMANDS[given.command](config, given))
    except helm.HelmError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)


def parse() -> argparse.Namespace:
    """Read flags strictly: one that is not known here is wrong use."""
    parser = argparse.ArgumentParser(prog="helm", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        command = commands.add_parser(name, allow_abbrev=False)
        if name != "list":
            command.add_argument("release")
        if name in {"install", "upgrade", "template"}:
            command.add_argument("chart")
            command.add_argument("-f", "--values", action="append", default=[])
            command.add_argument("--set", action="append", default=[])
            command.add_argument("--set-string", action="append", default=[])
        if name == "upgrade":
            command.add_argument("--install", action="store_true")
            command.add_argument("--reuse-values", action="store_true")
        if name == "rollback":
            command.add_argument("revision", type=int, nargs="?")
        command.add_argument("-n", "--namespace", default="default")
        command.add_argument("--create-namespace", action="store_true")
        command.add_argument("--wait", action="store_true")
        command.add_argument("--timeout", default="5m")
    return parser.parse_args()


def read_values(given: argparse.Namespace) -> dict[str, Any]:
    """Files in their order, then what ``--set`` says."""
    values: dict[str, Any] = {}
    for name in given.values:
        merge(values, helm.values_from_yaml(Path(name).read_text("utf-8")))
    for expression in given.set:
        merge(values, helm.parse_set_string(expression))
    for expression in given.set_string:
        merge(values, helm.parse_set_string_values(expression))
    return values


def merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    """Later values win, table by table."""
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def wait_of(given: argparse.Namespace) -> dict[str, Any]:
    """How long to wait, and for what."""
    seconds = int(given.timeout[:-1]) * {"s": 1, "m": 60, "h": 3600}[given.timeout[-1]]
    return {"wait": WAIT if given.wait else None, "timeout": seconds}


def install(config: helm.Config, given: argparse.Namespace) -> str:
    """A first revision."""
    more = {**wait_of(given), "namespace": given.namespace, "create_namespace": given.create_namespace}
    return show(config.install(given.chart, given.release, read_values(given), **more))


def upgrade(config: helm.Config, given: argparse.Namespace) -> str:
    """A further revision; with ``--install`` the first one where there is none."""
    if given.install and not config.list(name_filter=f"^{given.release}$", all_states=True):
        return install(config, given)
    more = {**wait_of(given), "namespace": given.namespace, "reuse_values": given.reuse_values}
    return show(config.upgrade(given.chart, given.release, read_values(given), **more))


def rollback(config: helm.Config, given: argparse.Namespace) -> str:
    """A further revision that is as an earlier one."""
    config.rollback(given.release, version=given.revision, **wait_of(given))
    return "Rollback was a success! Happy Helming!"


def uninstall(config: helm.Config, given: argparse.Namespace) -> str:
    """Remove what a release made."""
    config.uninstall(given.release, **wait_of(given))
    return f'release "{given.release}" uninstalled'


def template(config: helm.Config, given: argparse.Namespace) -> str:
    """What an installation would send; nothing is sent."""
    with helm.Chart.load(given.chart) as chart:
        rendered = config.render(chart, read_values(given), name=given.release, namespace=given.namespace)
    return "".join(f"---\n# Source: {name}\n{text}\n" for name, text in sorted(rendered.items()))


def history(config: helm.Config, given: argparse.Namespace) -> str:
    """Every revision, as JSON."""
    return json.dumps(config.history(given.release), indent=1)


def list_releases(config: helm.Config, given: argparse.Namespace) -> str:
    """Every release of the namespace, as JSON."""
    return json.dumps(config.list(), indent=1)


def show(release: dict[str, Any]) -> str:
    """A release in the lines of the program."""
    lines = [f"NAME: {release['name']}", f"STATUS: {release['status']}", f"REVISION: {release['revision']}"]
    return "\n".join([*lines, "NOTES:", str(release.get("notes", ""))])


COMMANDS = {
    "history": history,
    "install": install,
    "list": list_releases,
    "rollback": rollback,
    "template": template,
    "uninstall": uninstall,
    "upgrade": upgrade,
}

if __name__ == "__main__":
    main()
