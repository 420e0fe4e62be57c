"""The edge of a command: exit codes, logs, progress, JSON on stdout."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest

from timberline.registry.errors import ConfigError, LifecycleError, PromotionRefusedError
from timberline.registry.runtime.cli import print_json, print_result, run_command
from timberline.registry.runtime.logs import configure_logging, log_event
from timberline.registry.runtime.progress import Progress

LOGGER = logging.getLogger("tests.edge")


class _Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


pytestmark = pytest.mark.usefixtures("restored_logging")


def _failing(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LifecycleError("broken"), 3),
        (ConfigError("wrong"), 2),
        (PromotionRefusedError("no"), 1),
        (OSError(28, "No space left on device"), 3),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("ours"), 3),
    ],
)
def test_every_failure_has_its_exit_code(error: BaseException, code: int) -> None:
    """Pipelines distinguish "no", "used wrongly" and "broken machine" by this number alone."""
    assert run_command("tests", lambda: _failing(error)) == code
    assert run_command("tests", lambda: 0) == 0


def test_missing_package_is_named_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """`etl` in the image that holds `fetch` and the registry alone: what is missing is a role, no fault."""
    configure_logging(format="human")
    assert run_command("tests", lambda: __import__("no_such_package").main()) == 3
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "no package no_such_package in this environment: pip install 'timberline[" in message


def test_known_failure_is_one_line_and_unknown_one_has_its_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A traceback in front of a user's own mistake hides the mistake."""
    configure_logging(format="human")
    run_command("tests", lambda: _failing(ConfigError("found 0", where="a.toml: x", hint="Use 1.")))
    known = capsys.readouterr().err
    run_command("tests", lambda: _failing(ZeroDivisionError("ours")))
    unknown = capsys.readouterr().err
    assert known.count("\n") == 1
    assert "a.toml: x: found 0. Use 1." in known
    assert "Traceback" not in known
    assert "Traceback" in unknown


def test_json_log_line_holds_event_fields_and_level(capsys: pytest.CaptureFixture[str]) -> None:
    """Off a terminal a machine reads the log; a line that is no JSON is lost."""
    configure_logging(format="auto")
    log_event(LOGGER, "etl finished", rows=3, where=ValueError("odd"))
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["level"], line["rows"], line["where"]) == ("etl finished", "info", 3, "odd")
    assert line["time"].endswith("+00:00")


def test_human_log_line_is_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal: clock, part, event, fields."""
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    configure_logging(format="auto")
    log_event(LOGGER, "etl finished", rows=3, share=0.123456)
    LOGGER.warning("careful")
    first, second = terminal.getvalue().splitlines()
    assert first.endswith("tests      etl finished  rows=3  share=0.1235")
    assert second.endswith("warning: careful")


def test_a_long_value_has_a_line_of_its_own_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that is meant to be copied must not hang behind other fields."""
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    configure_logging()
    command = "curl -s http://127.0.0.1:8000/predict " + "x" * 60
    log_event(LOGGER, "ready", version=1, example=command)
    assert terminal.getvalue().endswith(f"ready  version=1\n    example: {command}\n")


def test_the_log_follows_stderr_when_it_is_replaced(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A caller in the same process closes what it captured; later lines must not go there."""
    first, second = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", first)
    configure_logging(format="json")
    monkeypatch.setattr(sys, "stderr", second)
    first.close()
    log_event(LOGGER, "still here")
    assert json.loads(second.getvalue())["event"] == "still here"
    assert capfd.readouterr().err == ""


def test_log_level_holds(capsys: pytest.CaptureFixture[str]) -> None:
    """--log-level error must silence the rest."""
    configure_logging(level="error", format="json")
    log_event(LOGGER, "chatter")
    assert capsys.readouterr().err == ""


def test_result_is_json_on_stdout_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m part verb | jq` must work while the log goes on."""
    print_json({"accuracy": 0.5})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"accuracy": 0.5}
    assert captured.out.endswith("}\n")
    assert captured.err == ""


@pytest.mark.parametrize(("out", "is_silent"), [(_Terminal, True), (io.StringIO, False)])
def test_a_result_is_for_machines_when_a_person_has_the_log(
    monkeypatch: pytest.MonkeyPatch, out: type[io.StringIO], is_silent: bool
) -> None:
    """On a terminal the log has shown it; a pipe gets it whatever stderr is."""
    stdout = out()
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", _Terminal())
    print_result({"accuracy": 0.5})
    assert (stdout.getvalue() == "") is is_silent


def test_progress_off_a_terminal_is_a_plain_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    """A thousand carriage returns make a log unreadable; silence makes a stage look hung."""
    now = [0.0]
    with (
        caplog.at_level("INFO", logger="tests.edge"),
        Progress("reading", 100, "rows", logger=LOGGER, clock=lambda: now[0]) as progress,
    ):
        for second in range(25):
            now[0] = second
            progress.advance(4, note="part one")
    reported = [(record.getMessage(), vars(record)["fields"]["done"]) for record in caplog.records]
    assert reported == [("reading", 44), ("reading", 84)]


def test_progress_on_a_terminal_is_one_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn over itself, and never beyond 100 %."""
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    now = [0.0]
    with Progress("reading", 10, "rows", logger=LOGGER, clock=lambda: now[0]) as progress:
        for _ in range(11):
            now[0] += 1
            progress.advance(1)
    text = terminal.getvalue()
    assert text.count("\n") == 1
    assert " 50%" in text
    assert text.rstrip().endswith("100% 11 s")
    assert "110%" not in text


def test_progress_of_unknown_size_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server need not say how long its file is."""
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("fetching", None, "bytes", logger=LOGGER, clock=lambda: 0.0) as progress:
        progress.advance(1_500)
    assert "fetching 1,500 bytes" in terminal.getvalue()


def test_a_step_is_shown_with_its_name_and_share(caplog: pytest.LogCaptureFixture) -> None:
    """A wide table takes minutes in one step: the log must say which, and that it goes on."""
    now = [0.0]
    share = [0.0]
    progress = Progress("etl wide", 4, "steps", logger=LOGGER, clock=lambda: now[0], running=lambda: share[0])
    with caplog.at_level("INFO", logger="tests.edge"):
        progress.begin("read", size=3)
        for second in range(1, 60):
            now[0], share[0] = float(second), second / 60
            progress.advance(0)
        progress.begin("profile", parts=8)
        progress.begin_part(4)
        now[0], share[0] = 100.0, 0.5
        progress.begin_part(4)
    reported = [vars(record)["fields"] for record in caplog.records]
    assert [fields["share"] for fields in reported[:5]] == [0.17, 0.33, 0.5, 0.67, 0.83]
    assert {fields["note"] for fields in reported[:5]} == {"read"}
    assert reported[5:] == [
        {"done": 3, "unit": "steps", "total": 4, "note": "profile", "share": 0.75},
    ]
