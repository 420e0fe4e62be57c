"""Clients that each send the next request as soon as the last one is answered, and miss none.

with ClosedLoop(service, 16) as load:
    ...                      # restart, stop or harm the service
assert load.failures == []
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from tests.support.service import DEADLINE_S

_HEADERS = {"Content-Type": "application/json"}


class Asked(Protocol):
    """Where clients ask: a `tests.support.service.RunningService`, or what stands for one in a container."""

    host: str
    port: int

    def wait_for(self, fact: Callable[[], object]) -> None:
        """Ask again until ``fact()`` holds; fails when the deadline has passed."""


class ClosedLoop:
    """``count`` clients on kept-alive connections, from the block's beginning to its end.

    A client connects anew when it was told that the connection ends, and leaves for good when
    nobody listens any more. What it sent and was not answered is in ``failures``.
    """

    def __init__(self, service: Asked, count: int, body: bytes = b'{"rings": 40}') -> None:
        self.failures: list[str] = []
        self.statuses: set[int] = set()
        self.answer_count = 0
        self.refused_count = 0  # clients that found nobody
        self._service = service
        self._body = body
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]

    def __enter__(self) -> ClosedLoop:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The end."""
        self.stop_asking()

    def stop_asking(self) -> None:
        """Let each client finish its request."""
        self._is_over.set()
        for thread in self._threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive(), "a client is still waiting"

    def wait_for_answers(self, count: int) -> None:
        """Until that many requests were answered since the beginning."""
        self._service.wait_for(lambda: self.answer_count >= count)

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(self._service.host, self._service.port, timeout=DEADLINE_S)
        try:
            while not self._is_over.is_set():
                if connection.sock is None:
                    connection.connect()
                self._ask_once(connection)
        except ConnectionRefusedError:
            self.refused_count += 1  # it was not sent
        finally:
            connection.close()

    def _ask_once(self, connection: http.client.HTTPConnection) -> None:
        try:
            connection.request("POST", "/predict", self._body, _HEADERS)
            response = connection.getresponse()  # closes the connection if the answer says so
            response.read()
        except (OSError, http.client.HTTPException) as error:
            self.failures.append(repr(error))
            connection.close()
        else:
            self.statuses.add(response.status)
            self.answer_count += 1


class NewConnections(threading.Thread):
    """A client that connects anew for each request, one after the other, from `start` to `finish`."""

    def __init__(self, service: Asked, body: bytes = b'{"rings": 40}') -> None:
        super().__init__(daemon=True)
        self.answer_count = 0
        self.failures: list[str] = []
        self._is_over = threading.Event()
        self._service = service
        self._body = body

    def run(self) -> None:
        """Ask until it is over."""
        while not self._is_over.is_set():
            connection = http.client.HTTPConnection(
                self._service.host, self._service.port, timeout=DEADLINE_S
            )
            try:
                connection.request("POST", "/predict", self._body, {**_HEADERS, "Connection": "close"})
                response = connection.getresponse()
                response.read()
                if response.status == http.HTTPStatus.OK:
                    self.answer_count += 1
                else:
                    self.failures.append(f"status {response.status}")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
            finally:
                connection.close()

    def finish(self) -> None:
        """Let it finish its request."""
        self._is_over.set()
        self.join(DEADLINE_S)
        assert not self.is_alive(), "the client is still waiting"
