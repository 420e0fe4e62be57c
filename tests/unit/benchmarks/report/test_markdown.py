"""A verdict as a comment on a pull request."""

from __future__ import annotations

import msgspec
import pytest

from tests.support.manifests import build_verdict
from tests.support.verdicts import RATIO, judged, make_verdict
from timberline.benchmarks.report.markdown import MAX_CHARACTERS, write_markdown
from timberline.registry.verdict import Outcome, VerdictLine


def say(reason: str, name: str = "recall") -> VerdictLine:
    return VerdictLine(name=name, candidate=None, outcome="BLOCK", reason=reason)


def test_the_first_line_names_outcome_and_versions() -> None:
    """The first line is often the only one that is read."""
    first = write_markdown(make_verdict(RATIO)).decode().splitlines()[0]
    assert first == "### ❔ INCONCLUSIVE: tiny@2 against version 1"


def test_every_judged_line_is_one_row_of_the_table() -> None:
    """Outcome, values, difference with its bounds and the limit have to fit side by side."""
    text = write_markdown(make_verdict(RATIO, RATIO)).decode()
    row = "| ❔ INCONCLUSIVE | `p50` | 0.4 ms → 0.42 ms | × 1.050 (× 0.980 to × 1.120) | × 1.100 |"
    assert [line for line in text.splitlines() if "`p50` |" in line] == [row, row]


def test_what_keeps_the_gate_closed_comes_first_and_unfolded() -> None:
    """Who is refused must not have to open anything to see why."""
    fine = msgspec.structs.replace(RATIO, name="fine", outcome="PASS")
    reported = msgspec.structs.replace(RATIO, name="reported", outcome="INFO")
    text = write_markdown(make_verdict(say("it fell"), reported, fine)).decode()
    assert text.index("`recall`") < text.index("`fine`") < text.index("`reported`")
    assert text.index("it fell") < text.index("<details>") < text.index("`reported`")


def test_a_marked_line_comes_first_among_those_that_passed() -> None:
    """It blocks nothing, and in a fold it would be overlooked."""
    fine = msgspec.structs.replace(RATIO, name="fine", outcome="PASS")
    marked = msgspec.structs.replace(fine, name="baseline", mark="WARN", reason="not proven better")
    text = write_markdown(make_verdict(fine, marked)).decode()
    assert "| ⚠️ WARN | `baseline` |" in text
    assert text.index("| `baseline` |") < text.index("| `fine` |")
    assert text.index("not proven better") < text.index("<details>")


@pytest.mark.parametrize("outcome", ["PASS", "BLOCK", "INCONCLUSIVE", "INVALID"])
def test_every_fold_is_closed_and_has_its_empty_lines(outcome: Outcome) -> None:
    """Without an empty line behind the summary GitHub shows the table as plain text."""
    line = msgspec.structs.replace(RATIO, outcome=outcome)
    rows = write_markdown(make_verdict(line)).decode().splitlines()
    assert rows.count("<details>") == rows.count("</details>") >= 1
    for number, row in enumerate(rows):
        if row.startswith("<summary>"):
            assert rows[number + 1] == ""
        if row == "</details>":
            assert rows[number - 1] == ""


def test_text_from_data_becomes_no_markup_mention_or_link() -> None:
    """A class may be called anything; a comment by the CI must not call people or carry HTML."""
    hostile = "a | b\n<img src=x> [x](y) *c* `d` @everyone see #12 $e$ ![f](g)"
    text = write_markdown(make_verdict(say(hostile, name="slice `<b>|@all"))).decode()
    line = next(line for line in text.splitlines() if "everyone" in line)
    for markup in ("<img", "[x](", "*c* ", "`d`", "@everyone", "#12", "$e$", "| b"):
        assert markup not in line.replace("\\|", "").replace("\\*", "").replace("\\`", "")
    assert "<b>" not in text
    row = next(line for line in text.splitlines() if line.startswith("| ❌"))
    assert row.replace("\\|", "").count("|") == 6


def test_a_huge_verdict_stays_below_what_github_takes_and_counts_what_it_left_out() -> None:
    """A comment that is too long is refused whole, and then the block is not seen."""
    lines = [say("why " * 200, name=f"slice {number}") for number in range(2000)]
    info = [msgspec.structs.replace(RATIO, name=f"info {n}", outcome="INFO") for n in range(2000)]
    text = write_markdown(make_verdict(*lines, *info)).decode()
    assert len(text) <= MAX_CHARACTERS
    assert "more, see report.json" in text
    assert text.count("<details>") == text.count("</details>")
    assert "manifest `" in text


def test_a_first_verdict_is_called_one() -> None:
    """Floors alone are a weaker promise than a comparison."""
    text = write_markdown(build_verdict("tiny", judged(1))).decode()
    assert "first version, judged alone" in text
    assert "champion:" not in text


def test_a_reason_without_room_is_counted() -> None:
    """One line of a stack trace may be longer than a comment."""
    text = write_markdown(make_verdict(say("x" * MAX_CHARACTERS))).decode()
    assert len(text) <= MAX_CHARACTERS
    assert "… and 1 more, see report.json." in text
