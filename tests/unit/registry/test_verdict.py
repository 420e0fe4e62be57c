"""The gate's answer as a file, and its seal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.support.manifests import build_verdict
from timberline.registry.errors import RegistryError
from timberline.registry.verdict import (
    VERDICT_SCHEMA_VERSION,
    Verdict,
    VerdictLine,
    VersionDigests,
    decode_verdict,
    encode_verdict,
    seal_verdict,
)

_JUDGED = VersionDigests(version=1, manifest_sha256="0" * 64, model_sha256="1" * 64)
Tree = dict[str, Any]


def _tree(verdict: Verdict | None = None) -> Tree:
    tree: Tree = msgspec.json.decode(encode_verdict(verdict or build_verdict("tiny", _JUDGED)))
    return tree


def _line(outcome: str) -> VerdictLine:
    return msgspec.convert(
        {"name": f"{outcome.lower()}_line", "candidate": 1.0, "outcome": outcome, "reason": "made up"},
        VerdictLine,
    )


def test_verdict_round_trips_in_canonical_bytes() -> None:
    """The alias history pins the digest of these bytes, so equal verdicts must have equal ones."""
    verdict = build_verdict("tiny", _JUDGED)
    data = encode_verdict(verdict)
    assert decode_verdict(data) == verdict
    assert encode_verdict(decode_verdict(data)) == data


def test_a_marked_line_round_trips_and_one_without_a_mark_has_no_such_key() -> None:
    """Verdicts of before were sealed without the key: writing it would break their seals."""
    plain = build_verdict("tiny", _JUDGED)
    marked = msgspec.structs.replace(plain.lines[0], mark="WARN")
    verdict = msgspec.structs.replace(plain, lines=(marked, *plain.lines[1:]))
    assert decode_verdict(encode_verdict(verdict)) == verdict
    assert _tree(verdict)["lines"][0]["mark"] == "WARN"
    assert all("mark" not in line for line in _tree(plain)["lines"])
    assert (marked.label, plain.lines[0].label) == ("WARN", "PASS")


def test_counts_are_read_back_under_the_seal_that_they_were_written_with() -> None:
    """A line that counts rows gives a whole number; a seal that it breaks keeps a PASS from production."""
    plain = build_verdict("tiny", _JUDGED)
    counted = msgspec.structs.replace(plain.lines[0], candidate=823, difference=0, limit=900)
    verdict = msgspec.structs.replace(plain, lines=(counted, *plain.lines[1:]))
    data = encode_verdict(verdict)
    assert decode_verdict(data) == verdict
    assert encode_verdict(decode_verdict(data)) == data


@pytest.mark.parametrize("change", [{"mark": "NOTE"}, {"mark": "WARN", "outcome": "BLOCK"}])
def test_only_a_line_that_passed_is_marked(change: Tree) -> None:
    """The outcomes stay four: a mark is no milder BLOCK."""
    tree = _tree()
    tree["lines"][0] |= change
    with pytest.raises(RegistryError, match="not a verdict"):
        decode_verdict(msgspec.json.encode(tree))


def test_verdict_of_another_schema_version_is_refused_by_its_number() -> None:
    """A newer gate may have added a reason to block; guessing at its file could pass what it blocked."""
    data = msgspec.json.encode({**_tree(), "schema_version": VERDICT_SCHEMA_VERSION + 1})
    with pytest.raises(RegistryError, match="schema_version is 3, this program reads 1 to 2"):
        decode_verdict(data)


@pytest.mark.parametrize("change", [{"outcome": "MAYBE"}, {"waived": True}, {"is_first": False}])
def test_verdict_that_says_more_or_other_than_a_verdict_may_is_refused(change: Tree) -> None:
    """Unknown words in evidence are not to be ignored, nor is a first verdict that is none."""
    with pytest.raises(RegistryError, match="not a verdict"):
        decode_verdict(msgspec.json.encode({**_tree(), **change}))


@pytest.mark.parametrize("written", [b'"reason": "\xe9', b'"reason": ' + b"[" * 100_000 + b'"'])
def test_verdict_that_is_no_text_or_nested_without_end_is_refused(written: bytes) -> None:
    """The parser has errors of its own for these, which a promotion must not end with."""
    data = encode_verdict(build_verdict("tiny", _JUDGED)).replace(b'"reason": "', written)
    with pytest.raises(RegistryError, match="not a verdict"):
        decode_verdict(data)


def _block_to_pass(tree: Tree) -> None:
    tree["outcome"] = "PASS"
    tree["lines"][0]["outcome"] = "PASS"


def _loosen(tree: Tree) -> None:
    tree["lines"][0]["limit"] = 0.1


def _bind_to_others(tree: Tree) -> None:
    tree["candidate"]["model_sha256"] = "2" * 64


def _exchange_evidence(tree: Tree) -> None:
    tree["evidence"] = {"report.json": "3" * 64}


def _calm_the_machine(tree: Tree) -> None:
    tree["machine"]["class"] = "a quiet one"


def _guess_a_seal(tree: Tree) -> None:
    tree["seal"] = "4" * 64


@pytest.mark.parametrize(
    "tamper",
    [_block_to_pass, _loosen, _bind_to_others, _exchange_evidence, _calm_the_machine, _guess_a_seal],
)
def test_changed_verdict_does_not_fit_its_seal(tamper: Callable[[Tree], None]) -> None:
    """A no that an editor turns into a yes must not be read as one."""
    tree = _tree(build_verdict("tiny", _JUDGED, outcome="BLOCK"))
    tamper(tree)
    with pytest.raises(RegistryError, match=r"changed after the gate wrote it. Run the gate again"):
        decode_verdict(msgspec.json.encode(tree))


def test_verdict_without_its_seal_is_refused() -> None:
    """Leaving the seal out must not be the way around it."""
    tree = _tree()
    del tree["seal"]
    with pytest.raises(RegistryError, match=r"has no seal.*Run the gate again"):
        decode_verdict(msgspec.json.encode(tree))


def test_layout_of_the_file_is_not_sealed() -> None:
    """A store or an editor that changes white space only has changed nothing that the verdict states."""
    assert decode_verdict(msgspec.json.encode(_tree())) == build_verdict("tiny", _JUDGED)


def test_unsealed_verdict_of_the_first_schema_is_read_as_such() -> None:
    """The history shows it; nothing is promoted by it, see `registry.promotion`."""
    tree = {**_tree(), "schema_version": 1}
    del tree["seal"], tree["evidence"]
    verdict = decode_verdict(msgspec.json.encode(tree))
    assert (verdict.outcome, verdict.is_sealed) == ("PASS", False)
    assert "seal" not in _tree(verdict)


@pytest.mark.parametrize("outcome", ["BLOCK", "INVALID", "INCONCLUSIVE"])
def test_pass_that_a_line_contradicts_is_refused_though_sealed(outcome: str) -> None:
    """Anyone can make the seal; the lines must still add up to the outcome."""
    verdict = build_verdict("tiny", _JUDGED, outcome="BLOCK")
    mixed = msgspec.structs.replace(verdict, lines=(_line("PASS"), _line(outcome)))
    tree = {**_tree(mixed), "outcome": "PASS"}
    with pytest.raises(RegistryError, match=f"not a verdict: .*PASS, but not of {outcome.lower()}_line"):
        decode_verdict(msgspec.json.encode(tree))
    with pytest.raises(ValueError, match="but not of"):
        msgspec.structs.replace(mixed, outcome="PASS")


@pytest.mark.parametrize("lines", [(), (_line("INFO"),)])
def test_pass_without_a_line_that_passed_is_refused(lines: tuple[VerdictLine, ...]) -> None:
    """Nothing was measured, so nothing was found: an empty list of faults is no proof."""
    tree = {**_tree(), "lines": msgspec.to_builtins(lines)}
    with pytest.raises(RegistryError, match="no line passed"):
        decode_verdict(msgspec.json.encode(tree))


def test_seal_covers_every_field() -> None:
    """A field that a later change adds must not stay outside of it unnoticed."""
    verdict = build_verdict("tiny", _JUDGED)
    changes: Tree = {
        "schema_version": 3,
        "outcome": "BLOCK",
        "model": "other",
        "candidate": msgspec.structs.replace(_JUDGED, version=2),
        "champion": _JUDGED,
        "is_first": False,
        "lines": (_line("PASS"),),
        "gate_version": "0",
        "config_digest": "5" * 64,
        "machine": {},
        "created_at": "",
        "report": "report.md",
        "evidence": {"report.md": "6" * 64},
    }
    assert changes.keys() == set(Verdict.__struct_fields__)
    together = {"champion", "is_first"}  # they only change as one
    steps = [{key: changes[key]} for key in changes.keys() - together]
    steps.append({key: changes[key] for key in together})
    seals = {seal_verdict(msgspec.structs.replace(verdict, **step)) for step in steps}
    assert len(seals | {seal_verdict(verdict)}) == len(steps) + 1
