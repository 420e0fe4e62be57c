"""The page shows the whole verdict, needs no other file, and runs nothing that comes from data."""

from __future__ import annotations

import dataclasses
import html
from html.parser import HTMLParser
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.support.records import build_page_verdict, build_record
from timberline.benchmarks.analysis.predictions import Confusion
from timberline.benchmarks.analysis.verdict import describe_verdict
from timberline.benchmarks.report.page import changed_errors, write_page
from timberline.benchmarks.report.record import GateRecord
from timberline.registry.verdict import Outcome, VerdictLine

ATTACK = "</title><script>alert('1')</script>\"' onload=x &amp;"
VOID = {"meta", "br", "hr", "img", "link"}
SECTIONS = {"headroom", "restarts", "latency", "quality", "confusion", "releases"}


class Page(HTMLParser):
    """What a page consists of; every element has to be closed by its own end tag."""

    def __init__(self, page: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.names: set[str] = set()
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.style = ""
        self._open: list[str] = []
        self.feed(page.decode())
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the element and its attributes."""
        self.names.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """It closes the innermost one."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note text, styles apart."""
        if self._open and self._open[-1] == "style":
            self.style += data
        else:
            self.text += data


@pytest.fixture(scope="module")
def full() -> GateRecord:
    """A record that has everything."""
    return build_record(restarts=4, pairs=300, slower=0.1, worse=0.01, releases=13)


def test_every_line_is_there_with_its_reason(full: GateRecord) -> None:
    """A line that is missing cannot be questioned."""
    page = Page(write_page(full))
    assert len(full.verdict.lines) >= 6
    for line in full.verdict.lines:
        assert line.name in page.text
        assert line.reason in page.text


def test_outcome_and_why_come_first(full: GateRecord) -> None:
    """Most readers read no further."""
    page = Page(write_page(full)).text
    summary = describe_verdict(full.verdict)
    assert page.strip().startswith("BLOCK: forest_cover@13 against version 12")
    assert page.index(summary[1:]) < page.index("How close every line is")


@pytest.mark.parametrize("is_blocked", [False, True])
def test_a_marked_line_is_named_at_the_top_whatever_the_outcome(full: GateRecord, is_blocked: bool) -> None:
    """A PASS has no list of reasons, but for what should be looked at."""
    lines = tuple(line for line in full.verdict.lines if is_blocked or line.outcome in {"PASS", "INFO"})
    marked = VerdictLine(
        name="baseline", candidate=0.5, outcome="PASS", reason="no better than always Pine", mark="WARN"
    )
    outcome: Outcome = "BLOCK" if is_blocked else "PASS"
    verdict = msgspec.structs.replace(full.verdict, lines=(*lines, marked), outcome=outcome)
    page = Page(write_page(dataclasses.replace(full, verdict=verdict)))
    assert page.text.index("no better than always Pine") < page.text.index("How close every line is")
    assert ("class", "badge warn") in page.attributes


@pytest.mark.parametrize(
    ("given", "sections"),
    [
        ({"restarts": 4, "pairs": 300, "releases": 3}, SECTIONS),
        ({"restarts": 4, "pairs": 300, "is_first": True}, {"headroom", "latency"}),
        ({"restarts": 0}, {"headroom", "quality", "confusion"}),
        ({"restarts": 1, "pairs": 2, "problem": "2 pairs"}, {"headroom", "quality", "confusion"}),
        ({"restarts": 2, "pairs": 9, "problem": "9 pairs"}, SECTIONS - {"releases"}),
    ],
    ids=["all", "first version", "nothing measured", "nothing usable", "one usable restart"],
)
def test_sections_are_those_that_have_data(given: dict[str, Any], sections: set[str]) -> None:
    """A gate that went wrong is looked at more closely than any other; its page must not fail too."""
    record = build_record(**given)
    page = Page(write_page(record))
    assert SECTIONS & set(page.ids) == sections
    assert record.verdict.outcome in page.text


def test_a_service_without_times_has_no_net_plots(full: GateRecord) -> None:
    """Not every kernel measures the times of the service."""
    bare = tuple(
        dataclasses.replace(
            restart,
            arms={
                arm: dataclasses.replace(run, net_ms=(), client_net_ms=())
                for arm, run in restart.arms.items()
            },
        )
        for restart in full.restarts
    )
    text = Page(write_page(dataclasses.replace(full, restarts=bare))).text
    assert "Client p50" in text
    assert "Service, net" not in text
    assert "Net p50" not in text


def test_nothing_refers_outside(full: GateRecord) -> None:
    """The page is opened from an artifact of CI, without a network, years later."""
    page = Page(write_page(full))
    assert not page.names & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert [
        value for name, value in page.attributes if name in {"src", "srcset", "action", "xlink:href"}
    ] == []
    links = [value for name, value in page.attributes if name == "href"]
    assert links
    assert [link for link in links if not link.startswith(("#", "./"))] == []
    assert "url(" not in page.style
    assert "@import" not in page.style


def test_links_within_the_page_lead_somewhere(full: GateRecord) -> None:
    """A line of the overview leads to its row."""
    page = Page(write_page(full))
    inner = {value[1:] for name, value in page.attributes if name == "href" and value.startswith("#")}
    assert inner <= set(page.ids)


def test_what_comes_from_outside_stays_text(full: GateRecord) -> None:
    """Names of classes and models and reasons are written by others; the page must not run them."""
    assert full.comparison is not None
    line = VerdictLine(name=ATTACK, candidate=1.0, limit=2.0, unit=ATTACK, outcome="INVALID", reason=ATTACK)
    verdict = msgspec.structs.replace(
        build_page_verdict([line], "INVALID", model=ATTACK), machine={ATTACK: ATTACK}, gate_version=ATTACK
    )
    confusion = dataclasses.replace(full.comparison.confusion, classes=(ATTACK,) * 7)
    recalls = tuple(dataclasses.replace(recall, label=ATTACK) for recall in full.comparison.recalls)
    comparison = dataclasses.replace(full.comparison, confusion=confusion, recalls=recalls)
    restarts = (dataclasses.replace(full.restarts[0], problem=ATTACK), *full.restarts[1:])
    page = Page(write_page(GateRecord(verdict, restarts, comparison, full.settings)))
    assert "script" not in page.names
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.text.count(ATTACK) > 20


@pytest.mark.parametrize(
    ("evidence", "address"),
    [
        ("evaluation.parquet", "./evaluation.parquet"),
        ("restart-*.csv.gz", "#restarts-table"),
        ("scored-*.parquet", "#answers"),
        ("javascript:alert(1)", "./javascript%3Aalert%281%29"),
        ("//evil.example/x", "./%2F%2Fevil.example%2Fx"),
        ("../../secrets", "./..%2F..%2Fsecrets"),
    ],
)
def test_evidence_is_a_file_beside_the_page(full: GateRecord, evidence: str, address: str) -> None:
    """Wherever the name came from, the link stays in the folder of the report."""
    line = VerdictLine(name="x", candidate=1.0, outcome="INVALID", reason="made up", evidence=evidence)
    page = Page(write_page(dataclasses.replace(full, verdict=build_page_verdict([line], "INVALID"))))
    assert ("href", address) in page.attributes


def test_answers_that_were_given_afresh_are_linked(full: GateRecord) -> None:
    """Versions of different tables: their evaluations are about other rows than those that were judged."""
    stored = Page(write_page(full))
    assert "as each version came with them" in stored.text
    assert ("id", "answers") in stored.attributes
    assert full.comparison is not None
    comparison = dataclasses.replace(full.comparison, is_fresh=True)
    page = Page(write_page(dataclasses.replace(full, comparison=comparison)))
    for arm in ("champion", "candidate"):
        assert ("href", f"./scored-{arm}.parquet") in page.attributes
    assert "as each version came with them" not in page.text


def test_rows_are_counted_and_not_rounded(full: GateRecord) -> None:
    """How many are judged is what a doubter asks first."""
    line = VerdictLine(name="held_out_rows", candidate=565_356.0, unit="rows", outcome="INFO", reason="x")
    page = Page(write_page(dataclasses.replace(full, verdict=build_page_verdict([line], "INVALID"))))
    assert "565,356 rows" in page.text


def test_the_pages_own_policy_forbids_scripts_and_requests(full: GateRecord) -> None:
    """The second lock: should a name ever get through, the browser does not run it."""
    policy = next(value for name, value in Page(write_page(full)).attributes if name == "content")
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert "script-src" not in policy


def test_facts_allow_to_repeat_the_gate(full: GateRecord) -> None:
    """Digests, rules, machine and the command: what a doubter needs."""
    text = Page(write_page(full)).text
    verdict = full.verdict
    assert verdict.champion is not None
    for fact in (
        verdict.candidate.model_sha256,
        verdict.champion.manifest_sha256,
        verdict.config_digest,
        "cpu_count 2",
        "timberline gate forest_cover --again --candidate forest_cover@13 --champion forest_cover@12",
        "restart-04.csv.gz",
    ):
        assert fact in text


def test_errors_that_changed_show_their_counts(full: GateRecord) -> None:
    """More rows with a wrong label are worse; both counts and the change stand in one row."""
    assert full.comparison is not None
    error = changed_errors(full.comparison.confusion)[0]
    assert error.change == error.candidate - error.champion > 0
    page = write_page(full).decode()
    row = page[page.index('<tr class="worse">') :].split("</tr>")[0]
    cells = (error.truth, error.label, f"{error.champion:,}", f"{error.candidate:,}", f"{error.change:+,}")
    for cell in cells:
        assert html.escape(cell) + "</td>" in row


def test_of_many_errors_those_are_shown_that_changed_most() -> None:
    """A thousand classes are a million cells; what is right is no error."""
    before = np.full((100, 100), 7)
    after = before + 1
    after[90, 3], after[40, 40] = 1, 900
    classes = tuple(f"class {index}" for index in range(100))
    confusion = Confusion(classes, tuple(map(tuple, before.tolist())), tuple(map(tuple, after.tolist())))
    errors = changed_errors(confusion)
    assert len(errors) == 50
    assert errors[0] == ("class 90", "class 3", 7, 1, -6, 700)
    assert all(error.truth != error.label for error in errors)
    assert changed_errors(dataclasses.replace(confusion, candidate=confusion.champion)) == []


def test_the_last_releases_are_rows_with_this_gates_outcome() -> None:
    """A reader sees at once whether the step is new; the registry does not hold this verdict yet."""
    page = Page(write_page(build_record(restarts=4, pairs=300, slower=0.1, releases=13)))
    table = page.text[page.text.index("The last releases") :]
    assert "BLOCK (against 12)" in table
    assert "worse: step of p50" in table


def test_a_long_gate_makes_a_small_page() -> None:
    """Forty restarts are half a million numbers; the page is mailed and kept."""
    page = write_page(build_record(restarts=40, pairs=1000, releases=13))
    assert len(page) < 500_000


def test_equal_records_give_equal_pages(full: GateRecord) -> None:
    """Its digest is part of the verdict."""
    assert write_page(full) == write_page(full)
