"""Clients in a cluster's network that ask one address all the time and miss no answer; see `PodClients`.

with PodClients(cluster, "http://198.51.100.7/predict", 8) as clients:
    clients.wait_for_answers(200)
    ...                      # delete a pod, upgrade, roll back
assert clients.fate.lost == []
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.support.cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]
ANSWER_S = 15.0
_HEADERS = {"Content-Type": "application/json"}


class Fate(NamedTuple):
    """What became of every request.

    ``answers`` by status, ``versions`` of the answers with 200. ``again`` counts requests that were sent on a
    kept connection, which ended without one byte of an answer: they were asked once more on a new one, as
    proxies and clients do. ``refused`` were not sent, as there was no connection. ``lost`` has all others.
    """

    answers: dict[str, int]
    versions: dict[str, int]
    again: int
    refused: int
    lost: list[str]

    @property
    def answered(self) -> int:
        """Answers with status 200."""
        return self.answers.get("200", 0)

    def __str__(self) -> str:
        """As the figures at the end tell it."""
        others = sum(self.answers.values()) - self.answered
        counts = (
            f"{self.answered} answered, {len(self.lost)} lost, {self.refused} refused, {self.again} again"
        )
        return counts + (f", {others} with another status" if others else "")


class PodClients:
    """``count`` clients, each on a kept connection, from the block's beginning to its end."""

    def __init__(
        self, cluster: Cluster, url: str, count: int, body: str = '{"rings": 40}', pause_s: float = 0.02
    ) -> None:
        self.fate = Fate({}, {}, 0, 0, [])
        self._cluster = cluster
        command = [sys.executable, "-m", "tests.support.pod_clients", url, str(count), body, str(pause_s)]
        self._command = cluster.enter(*command)

    def __enter__(self) -> PodClients:
        """Begin to ask."""
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let each client finish its request, and keep what became of all of them."""
        try:
            said, _ = self._process.communicate("end\n", timeout=4 * ANSWER_S)
            self.fate = Fate(**json.loads(said.splitlines()[-1]))
        finally:
            self._process.kill()
            self._process.wait()

    def look(self) -> Fate:
        """What became of the requests so far."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("look\n")
        self._process.stdin.flush()
        self.fate = Fate(**json.loads(self._process.stdout.readline()))
        return self.fate

    def wait_for_answers(self, count: int) -> None:
        """Until that many more requests were answered."""
        goal = self.look().answered + count
        self._cluster.wait_until(lambda: self.look().answered >= goal, f"{goal} answers")


class _Client(threading.Thread):
    """One client; its counts are read by others while it counts."""

    def __init__(self, url: str, body: str, pause_s: float, is_over: threading.Event) -> None:
        super().__init__()
        parts = urlsplit(url)
        self.answers: Counter[int] = Counter()
        self.versions: Counter[str] = Counter()
        self.again = 0
        self.refused = 0
        self.lost: list[str] = []
        self._path = parts.path
        self._body = body
        self._pause_s = pause_s
        self._is_over = is_over
        self._connection = http.client.HTTPConnection(parts.netloc, timeout=ANSWER_S)

    def run(self) -> None:
        """Ask until it is over. The pause is the client's think time."""
        while not self._is_over.wait(self._pause_s):
            is_kept = self._connection.sock is not None
            try:
                self._ask()
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
                self._connection.close()
                if is_kept:
                    self.again += 1
                    self._ask_again()
                else:
                    self.lost.append(repr(error))
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                self.lost.append(repr(error))
        self._connection.close()

    def _ask_again(self) -> None:
        try:
            self._ask()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            self.lost.append(f"asked again: {error!r}")

    def _ask(self) -> None:
        if self._connection.sock is None:
            try:
                self._connection.connect()
            except OSError:
                self._connection.close()
                self.refused += 1
                return
        self._connection.request("POST", self._path, self._body, _HEADERS)
        response = self._connection.getresponse()  # closes the connection if the answer says so
        answer = response.read()
        self.answers[response.status] += 1
        if response.status == 200:
            self.versions[str(json.loads(answer)["version"])] += 1


def sum_up(clients: list[_Client]) -> Fate:
    """What became of the requests of all clients."""
    answers: Counter[str] = Counter()
    versions: Counter[str] = Counter()
    for client in clients:
        answers.update({str(status): count for status, count in client.answers.copy().items()})
        versions.update(client.versions.copy())
    lost = [line for client in clients for line in client.lost]
    again, refused = (sum(getattr(client, name) for client in clients) for name in ("again", "refused"))
    return Fate(dict(answers), dict(versions), again, refused, lost)


def main(url: str, count: str, body: str, pause_s: str) -> None:
    """The process of the clients: a line on stdin asks for the counts; its end, or ``end``, ends them."""
    is_over = threading.Event()
    clients = [_Client(url, body, float(pause_s), is_over) for _ in range(int(count))]
    for client in clients:
        client.start()
    for line in sys.stdin:
        if line == "end\n":
            break
        print(json.dumps(sum_up(clients)._asdict()), flush=True)
    is_over.set()
    for client in clients:
        client.join()
    print(json.dumps(sum_up(clients)._asdict()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
