"""report.html: a gate on one page that needs nothing but itself.

No script, no request: the page's own policy forbids both, so that nothing that is written in a model's
name or a reason can do more than be read. Plots are inline SVG in the page's colours.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from timberline.benchmarks.analysis.verdict import describe_verdict
from timberline.benchmarks.report.facts import ANSWERS_ANCHOR, write_facts
from timberline.benchmarks.report.figure import Figure, line_anchor
from timberline.benchmarks.report.lines import HEAD, describe_match, format_row
from timberline.benchmarks.report.markup import Child, Markup, tag
from timberline.benchmarks.report.plots.confusion import draw_confusion
from timberline.benchmarks.report.plots.contrasts import draw_contrasts
from timberline.benchmarks.report.plots.distributions import draw_distributions
from timberline.benchmarks.report.plots.headroom import draw_headroom
from timberline.benchmarks.report.plots.parts import draw_parts
from timberline.benchmarks.report.plots.quantiles import draw_quantiles
from timberline.benchmarks.report.plots.releases import draw_releases
from timberline.benchmarks.report.record import GateRecord
from timberline.registry.verdict import Outcome, Verdict, VerdictLine

_STYLE = Path(__file__).with_name("page.css")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
# Told by more than their colour.
_SIGNS: dict[str, str] = {
    "PASS": "✓",
    "WARN": "▲",
    "BLOCK": "✕",
    "INCONCLUSIVE": "?",
    "INVALID": "!",
    "INFO": "i",
}
# What is looked at first, where it was measured.
_HEADLINES = ("service_p50", "cpu_per_request", "p50", "accuracy")


def write_page(record: GateRecord) -> bytes:
    """The page in UTF-8; equal records give equal bytes."""
    verdict = record.verdict
    name = f"{verdict.model}@{verdict.candidate.version}"
    figures = (
        draw_contrasts(record),
        draw_distributions(record),
        draw_quantiles(record),
        draw_confusion(record),
        draw_parts(record),
        draw_releases(record),
    )
    body = tag(
        "body",
        tag("main", _hero(verdict), _one(draw_headroom(record)), _lines(verdict), map(_one, figures)),
        write_facts(record),
    )
    return lay_page(f"{verdict.outcome}: {name} {describe_match(verdict)}", body)


def lay_page(title: str, body: Markup) -> bytes:
    """A whole document around an element ``body``: the house's style, and nothing from elsewhere."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(_STYLE.read_text("utf-8"))),
    )
    page = f'<!doctype html>\n<html lang="en">{head}{body}</html>\n'
    return page.encode(errors="replace")  # a path in a reason may hold bytes that are no text


def _one(figure: Figure | None) -> Markup | None:
    return figure.render() if figure else None


def _hero(verdict: Verdict) -> Markup:
    said = describe_verdict(verdict)
    return tag(
        "header",
        tag("p", "Release gate", class_="eyebrow"),
        tag("h1", f"{verdict.model}@{verdict.candidate.version} ", tag("small", describe_match(verdict))),
        tag(
            "div",
            tag("p", tag("span", _SIGNS[verdict.outcome], class_="sign"), verdict.outcome, class_="stamp"),
            tag("div", tag("p", f"{said[0].upper()}{said[1:]}.", class_="said"), _reasons(verdict)),
            class_=f"outcome {verdict.outcome.lower()}",
        ),
        _headlines(verdict),
        class_="hero",
    )


def _reasons(verdict: Verdict) -> Markup | None:
    """The lines that decided, and those with a mark; a PASS is decided by all of them."""
    is_pass = verdict.outcome == "PASS"
    shown = [] if is_pass else [line for line in verdict.lines if line.outcome == verdict.outcome]
    is_partial = not is_pass and not shown
    shown += [line for line in verdict.lines if line.is_marked]
    rows = [tag("li", _link_line(line), f"{_sum_up(line)}: {line.reason}") for line in shown]
    if is_partial:
        rows.insert(0, tag("li", "not everything that has to pass was judged"))
    return tag("ul", rows) if rows else None


def _headlines(verdict: Verdict) -> Markup | None:
    lines = {line.name: line for line in verdict.lines if line.difference is not None}
    tiles = [_tile(lines[name]) for name in _HEADLINES if name in lines]
    return tag("dl", tiles, class_="tiles") if tiles else None


def _tile(line: VerdictLine) -> Markup:
    cells = dict(zip(HEAD, format_row(line), strict=True))
    return tag(
        "div",
        tag("dt", _link_line(line)),
        tag("dd", cells["difference"], class_="value"),
        tag("dd", cells["bounds"] or " "),
        tag("dd", f"limit {cells['limit']}" if cells["limit"] else " "),
        class_=line.label.lower(),
    )


def _sum_up(line: VerdictLine) -> str:
    """What was found and what would have been allowed."""
    cells = dict(zip(HEAD, format_row(line), strict=True))
    found = cells["difference"] or cells["candidate"]
    return f" {found}, limit {cells['limit']}" if found and cells["limit"] else ""


def _link_line(line: VerdictLine) -> Markup:
    return tag("a", line.name, href=f"#{line_anchor(line)}")


def _lines(verdict: Verdict) -> Markup:
    heads = ("", "what", "champion", "candidate", "difference", "limit", "evidence")
    head = tag("tr", [tag("th", name, scope="col") for name in heads])
    rows = [_row(line) for line in verdict.lines]
    return tag(
        "section",
        tag("h2", "Every line"),
        tag("table", tag("thead", head), rows, class_="lines"),
        class_="card",
        id="lines",
    )


def _row(line: VerdictLine) -> Markup:
    """The numbers, and below them the reason, which may be long."""
    cells = dict(zip(HEAD, format_row(line), strict=True))
    bounds = tag("small", cells["bounds"]) if cells["bounds"] else None

    def cell(name: str, *content: Child) -> Markup:
        # Where it is narrow every cell is a line of its own, led by the column's name; empty ones go.
        return tag("td", *content, data_head=name, class_="num" if any(content) else "num empty")

    numbers = tag(
        "tr",
        tag("td", badge(line.label)),
        tag("th", line.name, scope="row"),
        cell("champion", cells["champion"]),
        cell("candidate", cells["candidate"], None if cells["difference"] else bounds),
        cell("difference", cells["difference"], bounds if cells["difference"] else None),
        cell("limit", cells["limit"]),
        cell("evidence", _evidence(line.evidence)),
    )
    reason = tag("tr", tag("td", class_="empty"), tag("td", line.reason, colspan="6", class_="why"))
    return tag("tbody", numbers, reason, id=line_anchor(line))


def badge(outcome: Outcome | str) -> Markup:
    """An outcome as a small label: sign, word and colour."""
    return tag("span", tag("i", _SIGNS[outcome]), outcome, class_=f"badge {outcome.lower()}")


def _evidence(name: str) -> Markup | None:
    """Where the line was computed from: a file beside the report, or the list of raw files or of answers."""
    if not name:
        return None
    href = "#restarts-table" if "*" in name else link(name)
    if "*" in name and name.endswith(".parquet"):
        href = f"#{ANSWERS_ANCHOR}"
    return tag("a", name, href=href)


def link(name: str) -> str:
    """A relative address of a file beside the page; never one of elsewhere, whatever the name."""
    return "./" + quote(name, safe="")
