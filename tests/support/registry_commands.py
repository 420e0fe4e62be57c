"""Commands of the registry in this process, and a small registry to give them to.

    build_registry(root)                       # tiny@1 to 3, other@1
    answer = ask(root, "rollback tiny")        # Answer(code=0, value={"version": 2, …}, log="")

A command that fails unexpectedly, or waits for what does not come, fails the test.
"""

from __future__ import annotations

import contextlib
import io
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.manifests import give_verdict, publish_tiny
from timberline.registry.__main__ import main
from timberline.registry.aliases import read_alias
from timberline.registry.names import PRODUCTION
from timberline.registry.promotion import promote, set_alias
from timberline.registry.runtime.cli import run_command
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.runtime.logs import configure_logging
from timberline.registry.store import Store, open_store
from timberline.registry.verdict import Outcome

# Whatever waits for another process would wait for ever; a command takes some milliseconds.
_HANG_S = 60


class Answer(NamedTuple):
    """What a command ended with: its exit code, its JSON (None if it printed nothing), its log."""

    code: int
    value: Any
    log: str


def build_registry(root: Path | str) -> Store:
    """tiny@1 to 3, each promoted after its verdict and then made the candidate; other@1 likewise."""
    store = open_store(root)
    for model in ("tiny", "tiny", "tiny", "other"):
        version = publish_tiny(store, model)
        give_verdict(store, model, version)
        promote(store, model, version)
        set_alias(store, model, "candidate", version, reason="exported")
    return store


def ask(root: Path | str, words: str | list[str]) -> Answer:
    """Run ``words`` as `act` does."""
    words = words.split() if isinstance(words, str) else words
    out, log = io.StringIO(), io.StringIO()
    with _alarm(words), contextlib.redirect_stdout(out), contextlib.redirect_stderr(log):
        code = act(root, words)
    assert "unexpected failure" not in log.getvalue(), (words, log.getvalue())
    return Answer(code, json.loads(out.getvalue()) if out.getvalue() else None, log.getvalue())


def list_broken(answer: Answer) -> list[dict[str, Any]]:
    """What ``verify`` answered about that is not whole."""
    return [check for check in answer.value if not check["is_whole"]]


def act(root: Path | str, words: list[str]) -> int:
    """Run a command of the registry, or ``publish MODEL BYTES``, or ``judge MODEL@VERSION OUTCOME``.

    Returns:
        The exit code; ``publish`` prints the number.
    """
    if words[0] in _VERBS:
        configure_logging("info", "auto")
        return run_command("registry", lambda: _VERBS[words[0]](open_store(root), *words[1:]))
    return main([*words, "--registry", str(root), "--json"])


def _publish(store: Store, model: str, text: str) -> int:
    print(publish_tiny(store, model, model_bytes=text.encode(), title=text))
    return 0


def _judge(store: Store, ref: str, outcome: Outcome) -> int:
    """With a report that the verdict names: the same one each time, so that no kill comes between them."""
    model, version = ref.split("@")
    production = read_alias(store, model, PRODUCTION)
    for number in {int(version), *({production.version} if production else ())}:
        store.open_version(model, number)  # so that a refusal changes nothing
    report = f"{ref}\n".encode()
    store.open_version(model, int(version)).write_document("report.md", report)
    give_verdict(store, model, int(version), outcome, evidence={"report.md": digest_bytes(report)})
    return 0


_VERBS: dict[str, Callable[..., int]] = {"publish": _publish, "judge": _judge}


@contextlib.contextmanager
def _alarm(words: list[str]) -> Iterator[None]:
    def ring(_signal: int, _frame: object) -> None:
        raise AssertionError(f"{words} waits for something that does not come")

    former = signal.signal(signal.SIGALRM, ring)
    signal.alarm(_HANG_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)
