"""A verdict as test results.

There is no standard. The rules checked here are what the readers have in common: Jenkins' schema
junit-10.xsd (attributes and children), and GitLab's list of what it parses (unique names, the text
of failure and error).
"""

from __future__ import annotations

from xml.etree import ElementTree

import msgspec
import pytest

from tests.support.verdicts import RATIO, make_verdict
from timberline.benchmarks.report.junit import write_junit
from timberline.registry.verdict import Outcome, Verdict, VerdictLine

# Element → attributes it must have, attributes it may have, children it may have (in this order).
RULES: dict[str, tuple[set[str], set[str], list[str]]] = {
    "testsuites": (set(), {"name", "time", "tests", "failures", "errors"}, ["testsuite"]),
    "testsuite": (
        {"name", "tests", "failures", "errors"},
        {"skipped", "time", "timestamp", "hostname", "id", "package", "file"},
        ["properties", "testcase"],
    ),
    "properties": (set(), set(), ["property"]),
    "property": ({"name", "value"}, set(), []),
    "testcase": ({"name", "classname"}, {"time"}, ["failure", "error", "system-out"]),
    "failure": ({"type", "message"}, set(), []),
    "error": ({"type", "message"}, set(), []),
    "system-out": (set(), set(), []),
}


def check(element: ElementTree.Element) -> None:
    required, optional, children = RULES[element.tag]
    assert required <= element.attrib.keys() <= required | optional
    places = [children.index(child.tag) for child in element]
    assert places == sorted(places)
    for child in element:
        check(child)


def read(verdict: Verdict) -> ElementTree.Element:
    root = ElementTree.fromstring(write_junit(verdict))
    check(root)
    suite = root.find("testsuite")
    assert suite is not None
    return suite


def line_of(outcome: str, name: str = "p50") -> VerdictLine:
    return msgspec.structs.replace(RATIO, name=name, outcome=outcome)


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [("BLOCK", "failure"), ("INCONCLUSIVE", "failure"), ("INVALID", "error"), ("PASS", None)],
)
def test_whatever_is_not_promoted_is_red(outcome: Outcome, kind: str | None) -> None:
    """GitLab and Jenkins colour by these elements; a blocked release in green would be merged."""
    suite = read(make_verdict(line_of(outcome), line_of("INFO", "p99")))
    verdict, judged, informed = suite.findall("testcase")
    expected = [kind, "system-out"] if kind else ["system-out"]
    assert [child.tag for child in verdict] == [child.tag for child in judged] == expected
    assert [child.tag for child in informed] == ["system-out"]
    counts = {"failure": suite.get("failures"), "error": suite.get("errors")}
    assert counts == {name: "2" if name == kind else "0" for name in ("failure", "error")}
    assert suite.get("tests") == "3"


def test_a_gate_that_did_not_pass_is_red_even_if_no_line_is() -> None:
    """INVALID because a line is missing: there is no line that could carry the colour."""
    suite = read(make_verdict(line_of("PASS"), outcome="INVALID"))
    assert [case.get("name") for case in suite.findall("testcase[error]")] == ["verdict"]


def test_names_of_cases_are_unique() -> None:
    """GitLab shows the first case of a name and drops the others."""
    suite = read(make_verdict(*[line_of("PASS", "slice")] * 3))
    names = [case.get("name") for case in suite.findall("testcase")]
    assert names == ["verdict", "slice", "slice 2", "slice 3"]


def test_digests_and_the_class_of_machine_are_properties() -> None:
    """A result without what it is bound to could be shown for any release."""
    verdict = make_verdict(RATIO)
    properties = {
        entry.get("name"): entry.get("value") for entry in read(verdict).findall("properties/property")
    }
    assert properties["candidate.model_sha256"] == verdict.candidate.model_sha256
    assert properties["config_digest"] == verdict.config_digest
    assert properties["machine.cpu_count"] == "2"


def test_a_failure_has_every_number_in_its_text() -> None:
    """GitLab shows the element's text and nothing else."""
    failure = read(make_verdict(RATIO)).findall("testcase/failure")[1]
    for number in ("0.4 ms", "0.42 ms", "× 1.050", "× 1.100", RATIO.reason):
        assert number in (failure.text or "")


def test_text_that_xml_cannot_hold_is_replaced() -> None:
    """A control character in a class label would make the whole report unreadable."""
    line = msgspec.structs.replace(RATIO, reason="class \x00\x1b[31m\ud7ff\uffff <b> & ]]>")
    text = read(make_verdict(line)).findall("testcase/failure")[1].text or ""
    assert "class \ufffd\ufffd[31m\ud7ff\ufffd <b> & ]]>" in text


def test_equal_verdicts_give_equal_bytes() -> None:
    """The verdict lists the digest of every document."""
    assert write_junit(make_verdict(RATIO)) == write_junit(make_verdict(RATIO))
