"""junit.xml: a verdict for whatever reads test results (GitHub actions, GitLab, Jenkins).

One suite is one gate. Its first case is the verdict, so that a gate that did not pass is red even when
no line is (a required line is missing); then comes one case a line. BLOCK and INCONCLUSIVE are
failures, because neither may be promoted; INVALID is an error: there is no answer. PASS, also with the
mark WARN, and INFO are passed cases.

The format has no standard. This is what the schema of Jenkins' xUnit plugin (junit-10.xsd), pytest's
reports and GitLab's reader have in common: children in the order properties, cases; in a case at most
one of failure and error, then system-out; names of cases unique, as GitLab keeps the first only.
"""

from __future__ import annotations

import re
from collections import Counter
from xml.etree import ElementTree

from timberline.benchmarks.analysis.verdict import describe_verdict
from timberline.benchmarks.report.lines import describe_match, format_row
from timberline.registry.verdict import Verdict, VerdictLine

_KINDS = {"BLOCK": "failure", "INCONCLUSIVE": "failure", "INVALID": "error"}


def write_junit(verdict: Verdict) -> bytes:
    """junit.xml as UTF-8 bytes; equal verdicts give equal bytes."""
    summary = describe_verdict(verdict)
    title = f"{verdict.model}@{verdict.candidate.version} {describe_match(verdict)}"
    # Name, outcome, message and text of each.
    cases: list[tuple[str, str, str, str]] = [
        ("verdict", verdict.outcome, summary, f"{title}: {verdict.outcome}, {summary}")
    ]
    seen: Counter[str] = Counter()
    for line in verdict.lines:
        seen[line.name] += 1
        name = line.name if seen[line.name] == 1 else f"{line.name} {seen[line.name]}"
        cases.append((name, line.outcome, line.reason, _describe(line)))
    kinds = Counter(_KINDS.get(outcome, "") for _, outcome, _, _ in cases)
    root = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        name=f"gate {verdict.model}",
        timestamp=verdict.created_at[:19],
        tests=str(len(cases)),
        failures=str(kinds["failure"]),
        errors=str(kinds["error"]),
        skipped="0",
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(verdict).items():
        ElementTree.SubElement(properties, "property", name=name, value=_clean(value))
    for case in cases:
        _add_case(suite, f"gate.{verdict.model}", *map(_clean, case))
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _add_case(
    suite: ElementTree.Element, class_name: str, name: str, outcome: str, message: str, text: str
) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=class_name, name=name, time="0")
    if kind := _KINDS.get(outcome):
        ElementTree.SubElement(case, kind, type=outcome, message=message).text = text
    ElementTree.SubElement(case, "system-out").text = text


def _describe(line: VerdictLine) -> str:
    """Every value of the line, one a row."""
    cells = format_row(line)._asdict() | {"evidence": line.evidence}
    return "\n".join(f"{name}: {cell}" for name, cell in cells.items() if cell)


def _properties(verdict: Verdict) -> dict[str, str]:
    properties = {"model": verdict.model, "outcome": verdict.outcome}
    for arm, judged in (("candidate", verdict.candidate), ("champion", verdict.champion)):
        if judged:
            properties[f"{arm}.version"] = str(judged.version)
            properties[f"{arm}.manifest_sha256"] = judged.manifest_sha256
            properties[f"{arm}.model_sha256"] = judged.model_sha256
    properties |= {"gate_version": verdict.gate_version, "config_digest": verdict.config_digest}
    return properties | {f"machine.{key}": value for key, value in sorted(verdict.machine.items())}


# XML 1.0, production 2: characters that no document may hold, not even escaped.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _clean(text: str) -> str:
    return _ILLEGAL.sub("\ufffd", text)
