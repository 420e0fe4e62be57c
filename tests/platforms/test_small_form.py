"""What of the platforms' matrix `make test` runs: one table's whole way, under each of a few settings."""

from __future__ import annotations

import pytest

from tests.platforms.matrix import SETTINGS, Outcome, Setting, format_table, missing_flag, run_setting

SMALL = [setting for setting in SETTINGS if setting.is_small and not missing_flag(setting)]


@pytest.mark.parametrize("setting", SMALL, ids=lambda setting: setting.name)
def test_the_numbers_hold_under_another_processors_kernels(setting: Setting) -> None:
    """A suite that is green on its author's processor says nothing of the next user's."""
    outcome = run_setting(setting, ["tests/platforms/test_numbers.py"])
    assert not outcome.failed, outcome.log
    assert outcome.passed


def test_a_process_that_dies_is_a_failure_under_its_setting() -> None:
    """A kernel that aborts leaves no report; nothing failed and nothing passed would look green."""
    aborting = Setting("aborts", {"PYTHONHASHSEED": "no number"}, ("tests/platforms/test_numbers.py",))
    outcome = run_setting(aborting)
    assert (outcome.passed, outcome.failed) == (0, ("pytest ended with 1",))


def test_the_table_names_every_failed_test_and_what_was_left_out() -> None:
    """The table is all that is read after an hour."""
    told = format_table([Outcome("fast", 3), Outcome("slow", 2, 1, ("test_a::test_b",))], {"wide": "avx512f"})
    fast, slow, failed, wide, *left_out = told.splitlines()[1:]
    assert fast.split()[:4] == ["fast", "3", "0", "0"]
    assert slow.split()[:4] == ["slow", "2", "1", "1"]
    assert failed == "    test_a::test_b"
    assert "no avx512f" in wide
    assert "mixed_bfloat16" in left_out[0]


def test_every_file_of_the_matrix_is_there() -> None:
    """A renamed test would drop out of the matrix, or end all of it."""
    from tests.platforms.matrix import ROOT

    assert [path for setting in SETTINGS for path in setting.tests if not (ROOT / path).exists()] == []
