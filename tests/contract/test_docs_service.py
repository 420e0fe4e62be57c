"""The pages about the service name each path, status, setting, metric and event that there is."""

from __future__ import annotations

import ast
import re
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.markdown import ROOT
from tests.support.service import RunningService, running_service
from tests.support.tiny_model import NUMERIC_ROWS, publish_numeric
from timberline.inference.app import STATUSES
from timberline.inference.config import Replaced, ServiceConfig
from timberline.inference.errors import GoldenMismatchError, LoadFailedError, SignatureMismatchError
from timberline.inference.metrics.counters import _REASONS, ModelMetrics, ServiceMetrics
from timberline.inference.metrics.drift import LEAST_ROWS
from timberline.inference.metrics.exposition import COUNTERS, LOAD_SECONDS, SECONDS
from timberline.inference.models.traffic import Replayed
from timberline.inference.models.trial import may_heal
from timberline.inference.server import timing
from timberline.registry.errors import DamageError, LifecycleError
from timberline.registry.manifest import Histogram, Prior
from timberline.registry.store import open_store

PAGES = ROOT / "docs" / "reference"
HTTP = (PAGES / "http.md").read_text("utf-8")
SERVICE = (PAGES / "service.md").read_text("utf-8")
METRICS = (PAGES / "metrics.md").read_text("utf-8")
HUNG_UP = 499  # no client sees it


def read_table(page: str, title: str) -> Iterator[list[str]]:
    """The cells of each row of the first table under a heading, without the head."""
    section = re.split(rf"^##+ {re.escape(title)}\n", page, flags=re.MULTILINE)[1]
    section = re.split(r"^##+ ", section, maxsplit=1, flags=re.MULTILINE)[0]
    table = re.search(r"^\|.*\n\|[-|]+\n((?:\|.*\n)+)", section, re.MULTILINE)
    assert table, title
    for line in table[1].splitlines():
        yield [cell.strip() for cell in line.strip("|").split("|")]


def list_code(cell: str) -> list[str]:
    """What stands as code in a cell."""
    return re.findall(r"`([^`]*)`", cell)


# Paths and statuses


def list_routes() -> set[tuple[str, str]]:
    """(method, path) of every route, a version's number as ``{n}``, without a slash at the end."""
    source = (ROOT / "inference" / "app.py").read_text("utf-8")
    found = re.findall(r'\("(/[^"]*)", \{"([A-Z]+)":', source)
    assert len(found) > 20
    return {(method, path.replace("{version}", "{n}").rstrip("/")) for path, method in found}


def list_shown_routes() -> set[tuple[str, str]]:
    """The same of the page; what stands in brackets may be there or not."""
    shown = set()
    for methods, paths, *_ in read_table(HTTP, "Paths"):
        for path in list_code(paths):
            for one in (re.sub(r"\[.*?\]", "", path), re.sub(r"[\[\]]", "", path)):
                shown |= {(method, one.rstrip("/")) for method in methods.split(", ")}
    return shown


def test_the_paths_are_those_of_the_service() -> None:
    """What a client may call; a path that is not there costs its author an afternoon."""
    assert list_shown_routes() == list_routes()


def test_the_statuses_are_those_of_the_service() -> None:
    """What a client has to be ready for."""
    shown = {int(status) for status, _ in read_table(HTTP, "Errors")}
    assert shown == {*STATUSES.values(), 500} - {HUNG_UP}


# Settings


@pytest.mark.parametrize("key", ServiceConfig.__struct_fields__)
def test_every_setting_is_in_the_table(key: str) -> None:
    """A setting that is not written down does not exist for its users."""
    name = "TIMBERLINE_SERVE_TOKENS" if key == "tokens" else f"--{key.replace('_', '-')}"
    assert f"`{name}`" in "".join("|".join(row) for row in read_table(SERVICE, "Settings"))


def test_the_settings_have_their_real_defaults() -> None:
    """A default that is not the default misleads worse than none."""
    documented: dict[str, str] = {}
    for flags, values, *_ in read_table(SERVICE, "Settings"):
        names = re.findall(r"`--([\w-]+)`", flags)
        # A thousand's comma is followed by no blank.
        texts = values.split(", ") if values else [""] * len(names)
        documented |= dict(zip([name.replace("-", "_") for name in names], texts, strict=True))
    defaults = msgspec.structs.asdict(ServiceConfig())
    del defaults["tokens"]
    assert documented.keys() == defaults.keys()
    assert {key: read_figure(documented[key], default) for key, default in defaults.items()} == defaults


def read_figure(text: str, default: object) -> object:
    """A value as people write it (`16 MiB`, `10,000`), as a setting of the default's type."""
    if default is None:  # it depends; the meaning says on what
        return text or None
    if isinstance(default, str):
        return text.strip("`")
    if isinstance(default, bool):
        return {"true": True, "false": False}[text]
    number, _, unit = text.strip("`").replace(",", "").partition(" ")
    return float(number) * {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit]


# Metrics


class Family(typing.NamedTuple):
    """One metric: its type and the names of its labels; None where no sample has shown them."""

    kind: str
    labels: frozenset[str] | None


def list_shown_families() -> dict[str, Family]:
    """The metrics of the page by name."""
    found: dict[str, Family] = {}
    for names, kind, labels, _ in read_table(METRICS, "Metrics"):
        found |= {name: Family(kind, frozenset(list_code(labels))) for name in list_code(names)}
    return found


def ask_families(service: RunningService) -> dict[str, Family]:
    """The metrics of a service now."""
    return read_families(service.request("GET", "/metrics")[2].decode())


def read_families(text: str) -> dict[str, Family]:
    """The metrics of a page in text format; a counter has its ``_total`` here."""
    found: dict[str, Family] = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {frozenset(sample.labels) - {"le"} for sample in family.samples}
        if name.removesuffix("_total") in COUNTERS:
            labels.add(frozenset(COUNTERS[name.removesuffix("_total")].labels))
        assert len(labels) < 2, (name, labels)
        found[name] = Family(family.type, next(iter(labels), None))
    return found


def test_the_metrics_are_those_of_a_running_service(tmp_path: Path) -> None:
    """Alerts are written from this table: a name or label that is wrong never fires."""
    store = open_store(tmp_path)
    thirds = (1 / 3, 1 / 3, 1 / 3)
    expected: dict[str, Any] = {
        "histograms": {"height": Histogram(counts=(2, 2), edges=(0.0, 50.0, 100.0))},
        "prior": Prior(method="none", training=thirds, deployment=thirds),
    }
    publish_numeric(store, **expected)
    publish_numeric(store, scale=-1.0, alias="candidate")
    rows = {"instances": [list(NUMERIC_ROWS[index % 3]) for index in range(LEAST_ROWS)]}
    with running_service(tmp_path, "tiny", "--shadow", "candidate=1") as service:
        assert service.predict(rows)[0] == 200
        assert service.predict({"nothing": 1})[0] == 400
        service.wait_for(lambda: ask_families(service)["drift_prediction_psi"].labels)
        service.wait_for(lambda: ask_families(service)["drift_psi"].labels)
        real = ask_families(service)
    shown = list_shown_families()
    assert {name: family.kind for name, family in shown.items()} == {
        name: family.kind for name, family in real.items()
    }
    wrong = {
        name: (shown[name].labels, family.labels)
        for name, family in real.items()
        if family.labels is not None and shown[name].labels != family.labels
    }
    assert wrong == {}
    # Of a bucket, and of a version with features that are text.
    elsewhere = {"registry_up", "model_from_cache", "unknown_categories_total"}
    assert {name for name, family in real.items() if family.labels is None} == elsewhere
    metrics = ServiceMetrics()
    metrics.add_model(ModelMetrics("tiny", 1, ["1"], ["soil"], digest="0" * 64, loaded_at=1.0))
    metrics.note_registry(0.0, 1.0)
    metrics.show_from_cache({("tiny", 1)})
    real = read_families(metrics.write_page("")[0].decode())
    assert {name: real[name] for name in elsewhere} == {name: shown[name] for name in elsewhere}


def test_the_reasons_of_rejections_have_their_statuses() -> None:
    """A reader goes from an alert to the status that clients saw."""
    shown = {
        list_code(reason)[0]: {int(status) for status in statuses.split(", ")}
        for reason, statuses, _ in read_table(METRICS, "Rejected requests")
    }
    by_code = {kind.code: find_status(kind) for kind in list_errors()}
    real: dict[str, set[int]] = {}
    for code, reason in _REASONS.items():
        real.setdefault(reason, set()).add(by_code[code])
    assert shown == real


def list_errors() -> Iterator[type[LifecycleError]]:
    """The errors of the service, and those derived from them."""
    waiting = list(STATUSES)
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        yield kind


def find_status(error: type[LifecycleError]) -> int:
    """The status of an error: the first entry that it is an instance of decides."""
    return next(status for kind, status in STATUSES.items() if issubclass(error, kind))


def test_the_figures_of_the_metrics_are_the_codes_own() -> None:
    """Bounds of histograms, and the words that labels may have."""
    assert f"Histograms of time start at {SECONDS[0] * 1000:g} ms and end at {SECONDS[-1]:g} s" in METRICS
    assert f"`version_load_seconds`: {LOAD_SECONDS[0]:g} s to {LOAD_SECONDS[-1]:g} s" in METRICS
    assert f"Below {LEAST_ROWS} rows there is none." in METRICS
    rows = {name: cells[2] for cells in read_table(METRICS, "Metrics") for name in list_code(cells[0])}
    meanings = {name: cells[3] for cells in read_table(METRICS, "Metrics") for name in list_code(cells[0])}
    assert rows
    assert set(typing.get_args(Replayed)) < set(list_code(meanings["shadow_rows_total"]))
    assert list_code(meanings["worker_restarts_total"]) == list(typing.get_args(Replaced))


# The log


class Event(typing.NamedTuple):
    """An event that the service logs, and the fields that are named where it does."""

    name: str
    fields: frozenset[str]


def list_events() -> Iterator[Event]:
    """Every event of the service's code, and the one of the log itself."""
    registry = ROOT / "registry"
    for path in (
        *sorted((ROOT / "inference").rglob("*.py")),
        registry / "runtime" / "logs.py",
        registry / "cache.py",
    ):
        tree = ast.parse(path.read_text("utf-8"))
        constants = {
            node.targets[0].id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (said := find_event(node)) is not None:
                value = constants.get(said.id, said) if isinstance(said, ast.Name) else said
                named = {str(word.arg) for word in node.keywords if word.arg is not None}
                fields = frozenset(named - {"exc_info", "extra"})
                yield from (Event(name, fields) for name in read_texts(value))


def find_event(call: ast.Call) -> ast.expr | None:
    """What stands for the event in a call that logs one."""
    function = call.func
    if isinstance(function, ast.Name) and function.id == "log_event":
        return call.args[1]
    if isinstance(function, ast.Attribute):
        if function.attr in {"warn_once", "tell_once"}:
            return call.args[0]
        if function.attr in {"error", "exception"} and ast.unparse(function.value).endswith("logger"):
            return call.args[0]
    return None


def read_texts(value: ast.expr) -> Iterable[str]:
    """The texts that an event may be."""
    if isinstance(value, ast.Constant):
        return [str(value.value)]
    if isinstance(value, ast.IfExp):
        return [*read_texts(value.body), *read_texts(value.orelse)]
    if isinstance(value, ast.JoinedStr):
        assert ast.unparse(value) == "f\"{target.role} {('off' if why else 'on')}\"", ast.unparse(value)
        return [f"{role} {state}" for role in ("canary", "shadow") for state in ("on", "off")]
    return []  # the parameter of `warn_once` or `tell_once`, whose calls are read


def test_every_event_of_the_log_is_in_the_table_with_its_fields() -> None:
    """Whoever reads a line at night, or filters by it, finds what it means."""
    shown = {
        name: set(list_code(fields))
        for events, _, fields, _ in read_table(METRICS, "Log")
        for name in list_code(events)
    }
    real = [event for event in list_events() if event.name != "%s"]
    assert set(shown) == {event.name for event in real}
    missing = {event: event.fields - shown[event.name] for event in real if event.fields - shown[event.name]}
    assert missing == {}


def list_kinds(kind: type[LifecycleError]) -> Iterator[type[LifecycleError]]:
    """An error and those derived from it."""
    yield kind
    for more in kind.__subclasses__():
        yield from list_kinds(more)


def test_the_codes_of_the_log_are_real_ones_and_tried_again_as_it_says() -> None:
    """A program that reads the log acts on them; an operator waits, or moves the alias."""
    kinds = {kind.code: kind for kind in list_kinds(LifecycleError)}
    rows = [[list_code(code)[0], *rest] for code, *rest in read_table(METRICS, "Codes")]
    assert {code for code, *_ in rows} - set(kinds) == {"unexpected"}
    for code, exit_code, _, again in rows:
        if code in kinds:
            assert exit_code == f"{kinds[code].exit_code}", code
        if code not in {"config", "registry_unreachable"}:  # nothing is loaded then
            error = kinds[code]("what") if code in kinds else RuntimeError()
            assert again == ("after a while" if may_heal(error) else "when the alias moves"), code
    # What a version is refused for: damage of the registry, and a graph that is not what was promised.
    refused = {*list_kinds(DamageError)} | {SignatureMismatchError, GoldenMismatchError, LoadFailedError}
    assert {kind.code for kind in refused} <= {code for code, *_ in rows}


def test_the_announcement_is_the_one_that_a_service_makes(tmp_path: Path) -> None:
    """Scripts wait for this line and read the port from it."""
    (shown,) = re.findall(r"```json\n(.*)\n```", METRICS)
    publish_numeric(open_store(tmp_path))
    with running_service(tmp_path, "tiny") as service:
        real = service.announced
    assert {key: type(value) for key, value in msgspec.json.decode(shown).items()} == {
        key: type(value) for key, value in real.items()
    }


def test_every_part_of_server_timing_is_in_the_table() -> None:
    """The names are the header's only documentation."""
    shown = [list_code(name)[0] for name, _ in read_table(METRICS, "`Server-Timing`")]
    source = Path(timing.__file__).read_text("utf-8")
    assert shown == re.findall(r"^- ``(\w+)``:", timing.__doc__ or "", re.MULTILINE)
    assert {name for name in shown if f"{name};dur=" not in source} == set()
