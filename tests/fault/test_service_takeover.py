"""Another service on the same port takes over from the first, and no client notices."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.support.closed_loop import ClosedLoop, NewConnections
from tests.support.service import RunningService, refuse_to_start, running_service
from timberline.inference.server.probe import check

CLIENTS = 16


def start_beside(
    service: RunningService, registry: Path, *flags: str
) -> contextlib.AbstractContextManager[RunningService]:
    """A service on the port of another one."""
    return running_service(registry, "tiny", "--reuse-port", "--port", f"{service.port}", *flags)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_no_request_is_lost_when_a_service_takes_the_port_over(registry: Path, workers: str) -> None:
    """A machine without a proxy gets another release so; twice in a row here."""
    flags = ("--reuse-port", "--request-log", "--workers", workers)
    with running_service(registry, "tiny", *flags) as first:
        fresh = NewConnections(first)
        fresh.start()
        with ClosedLoop(first, CLIENTS) as load:
            load.wait_for_answers(200)
            with start_beside(first, registry, "--request-log", "--workers", workers) as second:
                first.stop()
                load.wait_for_answers(load.answer_count + 200)
                with start_beside(first, registry) as third:
                    second.stop()
                    load.wait_for_answers(load.answer_count + 200)
                    third.wait_for(lambda: fresh.answer_count > 20)
                    fresh.finish()
                    load.stop_asking()
        assert load.failures == []
        assert load.refused_count == 0
        assert load.statuses == {200}
        assert fresh.failures == []


def test_new_connections_go_to_the_service_that_started_last(registry: Path) -> None:
    """What the first one is not given it cannot lose at its end; it has all again if the second ends."""
    with running_service(registry, "tiny", "--reuse-port", "--request-log") as first:
        with start_beside(first, registry, "--request-log") as second:
            for _ in range(50):
                assert first.predict({"rings": 40})[0] == 200
            second.wait_for_events("request", 50)
            assert first.list_events("request") == []
            assert check(first.port) == 0  # two files of one address are no question
        for _ in range(20):
            assert first.predict({"rings": 40})[0] == 200
        first.wait_for_events("request", 20)


def test_a_port_is_shared_only_where_both_say_so(registry: Path) -> None:
    """Whoever starts a service twice by mistake is told."""
    with running_service(registry, "tiny", "--reuse-port") as first:
        code, log = refuse_to_start(registry, "tiny", "--port", f"{first.port}")
        assert code == 2
        assert "cannot listen" in log
    with running_service(registry, "tiny") as first:
        code, log = refuse_to_start(registry, "tiny", "--port", f"{first.port}", "--reuse-port")
        assert code == 2
