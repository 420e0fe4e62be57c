"""The small print of the page: what was compared, on what, by which rules, and how to do it again."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import median
from typing import TYPE_CHECKING

from timberline.benchmarks.report.figure import arm_names
from timberline.benchmarks.report.markup import Child, Markup, tag
from timberline.benchmarks.report.plots.distributions import format_ms

if TYPE_CHECKING:
    from timberline.benchmarks.measure.records import ArmRun, Restart
    from timberline.benchmarks.report.record import Record
    from timberline.registry.verdict import Judged

# Where the page lists the answers that were given afresh.
ANSWERS_ANCHOR = "answers"
_HEADS = ("restart", "pairs", "arm", "client p50", "net p50", "CPU", "start-up", "memory", "raw")


def write_facts(record: Record) -> Markup:
    """The end of the page."""
    return tag(
        "footer",
        _restarts(record),
        tag(
            "section",
            tag("h2", "What was compared, and how"),
            _facts(record),
            class_="card",
            id=ANSWERS_ANCHOR,
        ),
        tag("section", tag("h2", "Do it again"), _again(record), class_="card"),
    )


def _restarts(record: Record) -> Markup:
    head = tag("tr", [tag("th", name, scope="col") for name in _HEADS])
    rows = [row for restart in record.restarts for row in _rows(restart, list(arm_names(record)))]
    rows = rows or [tag("tr", tag("td", "nothing was started", colspan=len(_HEADS)))]
    table = tag("table", tag("thead", head), tag("tbody", rows), class_="small")
    return tag(
        "details",
        tag("summary", tag("h2", "Every restart and its raw observations")),
        tag(
            "p",
            "The files lie beside this page where the gate ran; manifests and predictions lie beside it "
            "in the registry.",
            class_="note",
        ),
        tag("div", table, class_="scroll"),
        id="restarts-table",
        class_="card",
    )


def _rows(restart: Restart, arms: Iterable[str]) -> list[Markup]:
    file = f"restart-{restart.number:02}.csv.gz"
    rows = [
        tag(
            "tr",
            tag("td", str(restart.number)),
            tag("td", f"{restart.pairs:,}"),
            tag("td", tag("i", class_=f"key {arm}"), arm),
            _cells(restart.arms[arm]),
            tag("td", tag("a", file, href=f"./{file}")),
        )
        for arm in arms
        if arm in restart.arms
    ]
    if restart.problem or not rows:
        said = tag("td", restart.problem or "nothing was observed", colspan=len(_HEADS) - 1)
        rows.append(tag("tr", tag("td", str(restart.number)), said, class_="problem"))
    return rows


def _cells(run: ArmRun) -> list[Markup]:
    return [
        tag("td", f"{format_ms(run.p50_ms)} ms" if run.latencies_ms else "–"),
        tag("td", f"{format_ms(median(run.net_ms))} ms" if run.net_ms else "–"),
        tag("td", "–" if math.isnan(run.cpu_ms) else f"{format_ms(run.cpu_ms)} ms"),
        tag("td", f"{run.ready_s:.2f} s"),
        tag("td", f"{run.resident_bytes / 1e6:,.0f} MB"),
    ]


def _facts(record: Record) -> Markup:
    verdict, duet = record.verdict, record.settings.duet
    judged = {"candidate": verdict.candidate} | ({"champion": verdict.champion} if verdict.champion else {})
    return _list(
        *((name, _digests(judged[arm])) for arm, name in arm_names(record).items()),
        ("predictions", _predictions(record)),
        ("judged", verdict.created_at),
        ("machine", ", ".join(f"{key} {value}" for key, value in sorted(verdict.machine.items()))),
        ("gate version", verdict.gate_version),
        ("rules", tag("code", verdict.config_digest)),
        ("workload", f"{duet.workload}, seed {duet.seed}, {duet.window_s:g} s a restart"),
        ("restarts", f"{len(record.restarts)}, looked at after {', '.join(map(str, duet.looks))}"),
    )


def _predictions(record: Record) -> Markup:
    """Which answers to the test rows were compared; those that were given afresh lie beside the raw files."""
    if record.comparison is None or not record.comparison.is_fresh:
        return tag("span", "as each version came with them", id=ANSWERS_ANCHOR)
    names = [f"scored-{arm}.parquet" for arm in arm_names(record)]
    links = [(tag("a", name, href=f"./{name}"), " ") for name in names]
    return tag("span", "given afresh: ", links, id=ANSWERS_ANCHOR)


def _digests(judged: Judged) -> Markup:
    return _list(
        ("model.onnx", tag("code", judged.model_sha256)),
        ("manifest.json", tag("code", judged.manifest_sha256)),
    )


def _list(*facts: tuple[str, Child]) -> Markup:
    return tag("dl", [(tag("dt", name), tag("dd", said)) for name, said in facts], class_="facts")


def _again(record: Record) -> Markup:
    verdict = record.verdict
    words = ["python -m benchmarks gate", "--model", verdict.model, "--again"]
    words += ["--candidate", f"{verdict.model}@{verdict.candidate.version}"]
    if verdict.champion is not None:
        words += ["--champion", f"{verdict.model}@{verdict.champion.version}"]
    return Markup(
        tag("pre", tag("code", " ".join(words)))
        + tag(
            "p",
            "On the same registry and by the same rules. An answer that nobody liked is no reason: "
            "running until a gate is green is a false pass.",
            class_="note",
        )
    )
