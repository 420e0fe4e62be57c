"""junit.xml: a verdict for whatever reads test results (GitHub actions, GitLab, Jenkins).

One suite is one gate. Its first case is the verdict itself, so that a gate that did not pass is red
even when no single line is (a line that should be there is missing); then one case a line. BLOCK and
INCONCLUSIVE are failures, because neither may be promoted; INVALID is an error: nothing was found
out. PASS, whether marked WARN or not, and INFO are passed cases.

The format has no standard. Kept to what the schema of Jenkins' xUnit plugin (junit-10.xsd), pytest's
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
    suite = ElementTree.Element("testsuite", name=f"gate {verdict.model}", timestamp=verdict.created_at[:19])
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(verdict).items():
        ElementTree.SubElement(properties, "property", name=name, value=_clean(value))
    said = describe_verdict(verdict)
    title = f"{verdict.model}@{verdict.candidate.version} {describe_match(verdict)}"
    _add_case(suite, verdict, "verdict", verdict.outcome, said, f"{title}: {verdict.outcome}, {said}")
    seen: Counter[str] = Counter()
    for line in verdict.lines:
        seen[line.name] += 1
        name = line.name if seen[line.name] == 1 else f"{line.name} {seen[line.name]}"
        _add_case(suite, verdict, name, line.outcome, line.reason, _describe(line))
    kinds = Counter(_KINDS.get(outcome, "") for outcome in _outcomes(verdict))
    counts = {
        "tests": len(verdict.lines) + 1,
        "failures": kinds["failure"],
        "errors": kinds["error"],
        "skipped": 0,
    }
    suite.attrib |= {name: str(count) for name, count in counts.items()}
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _outcomes(verdict: Verdict) -> list[str]:
    return [verdict.outcome, *(line.outcome for line in verdict.lines)]


def _add_case(
    suite: ElementTree.Element, verdict: Verdict, name: str, outcome: str, message: str, text: str
) -> None:
    case = ElementTree.SubElement(
        suite, "testcase", classname=f"gate.{verdict.model}", name=_clean(name), time="0"
    )
    if kind := _KINDS.get(outcome):
        finding = ElementTree.SubElement(case, kind, type=outcome, message=_clean(message))
        finding.text = _clean(text)
    ElementTree.SubElement(case, "system-out").text = _clean(text)


def _describe(line: VerdictLine) -> str:
    """Every number of the line, one a row."""
    cells = format_row(line)._asdict()
    if line.evidence:
        cells["evidence"] = line.evidence
    return "\n".join(f"{name}: {cell}" for name, cell in cells.items() if cell)


def _properties(verdict: Verdict) -> dict[str, str]:
    arms = {"candidate": verdict.candidate} | ({"champion": verdict.champion} if verdict.champion else {})
    told = {
        f"{arm}.{key}": value
        for arm, judged in arms.items()
        for key, value in (
            ("version", str(judged.version)),
            ("manifest_sha256", judged.manifest_sha256),
            ("model_sha256", judged.model_sha256),
        )
    }
    rules = {"gate_version": verdict.gate_version, "config_digest": verdict.config_digest}
    machine = {f"machine.{key}": value for key, value in sorted(verdict.machine.items())}
    return {"model": verdict.model, "outcome": verdict.outcome} | told | rules | machine


# XML 1.0, production 2: what no document may hold, not even escaped.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _clean(text: str) -> str:
    return _ILLEGAL.sub("\ufffd", text)
