"""A page of the docs, done as a reader does it: every block of commands, in order, in one shell's state.

    with Walkthrough(folder) as reader:
        reader.follow(ROOT / "docs" / "tutorial.md")

Blocks marked ``sh`` are run by ``bash -euo pipefail`` in a copy of the checkout; what one leaves in variables
and in the working folder is there for the next. A block marked ``text`` right behind one is its output, where
``…`` stands for anything, over lines too. A comment before a block says what else holds:

    <!-- test: exits=1 -->      it ends with this code
    <!-- test: shows=log -->    its output is what it says on stderr, as on a terminal
    <!-- test: repeats -->      it is run until its output is what the page shows
    <!-- test: serves=URL -->   it goes on beside the others; the next block waits until URL answers
    <!-- test: stops -->        the last one that serves is ended before this block
    <!-- test: adds=WORD -->    a word more behind its last line, so that what takes hours takes seconds

Ports 8000 to 8099, 9090 and 9093 stand for free ones. The gate is the quick one of tests.support.makefile.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType

from tests.support.makefile import DEADLINE_S, QUICK_GATE
from tests.support.markdown import ROOT, Block, list_blocks, list_files
from timberline.registry.runtime.logs import _HumanFormatter

_KEEP_STATE = 'trap \'{ declare -px; printf "cd %q\\n" "$PWD"; } > "$STATE_OF_THE_SHELL"\' EXIT'


class Walkthrough:
    """A reader with a copy of the checkout in ``folder``; leaving the block ends what still serves."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        """``environment`` is added to that of the tests, for every block."""
        self.folder = folder / "timberline"
        self._commands = folder / "commands"
        self._commands.mkdir(parents=True)
        self._state = folder / "state.sh"
        self._state.touch()
        self._ports: dict[str, str] = {}
        self._serving: list[tuple[subprocess.Popen[bytes], Path]] = []
        _copy_checkout(self.folder)
        self._environment = (
            {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
            | QUICK_GATE
            | {"STATE_OF_THE_SHELL": str(self._state)}
            | (environment or {})
        )
        self._environment["PATH"] = f"{self._commands}:{self._environment['PATH']}"

    def __enter__(self) -> Walkthrough:
        """The reader sits down."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what still serves."""
        while self._serving:
            self._stop_last()

    def provide(self, command: str, script: str) -> None:
        """Put ``script`` (with its #! line) on the path under the name ``command``, before all others."""
        path = self._commands / command
        path.write_text(script, "utf-8")
        path.chmod(0o755)

    def port(self, written: str) -> str:
        """The free port that stands for one of the page."""
        return self._ports.setdefault(written, _find_port())

    def follow(self, page: Path, part: slice = slice(None), without: str = "", only: str = "") -> int:
        """Run every block of commands of ``page``, or a part: with the option ``only``, without another.

        Returns:
            How many blocks were run.
        """
        place = page.relative_to(ROOT)
        blocks = list(list_blocks(page.read_text("utf-8")))
        commands = [(number, block) for number, block in enumerate(blocks) if block.language == "sh"][part]
        commands = [(number, block) for number, block in commands if without not in block.options]
        commands = [(number, block) for number, block in commands if not only or only in block.options]
        for number, block in commands:
            shown = next(iter(blocks[number + 1 :]), None)
            is_output = shown is not None and shown.language == "text" and shown.follows_directly
            self._do(block, shown.code if shown and is_output else None, f"{place}:{block.line}")
        return len(commands)

    def _do(self, block: Block, shown: str | None, where: str) -> None:
        """Run one block and hold its output to what is ``shown`` of it."""
        deadline = time.monotonic() + DEADLINE_S
        output = self._run(block, where)
        if shown is None or output is None:
            return
        while "repeats" in block.options and not _is_shown(shown, output) and time.monotonic() < deadline:
            output = self._run(block, where) or ""
        assert _is_shown(shown, output), f"{where} shows\n{shown}\nbut it is\n{output}"

    def _run(self, block: Block, where: str) -> str | None:
        """Run one block; its output, or None for one that goes on."""
        if "stops" in block.options:
            self._stop_last()
        code = block.code
        if word := block.options.get("adds"):
            code = f"{code.rstrip()} {word}\n"
        script = f'source "$STATE_OF_THE_SHELL"\n{_KEEP_STATE}\n{self._with_free_ports(code)}'
        shell = ["bash", "-euo", "pipefail", "-c", script]
        if url := block.options.get("serves"):
            self._serve(shell, self._with_free_ports(url), where)
            return None
        done = subprocess.run(
            shell,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        expected = int(block.options.get("exits", "0"))
        assert done.returncode == expected, (
            f"{where} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return _read_log(done.stderr) if block.options.get("shows") == "log" else done.stdout

    def _serve(self, shell: list[str], url: str, where: str) -> None:
        """Start a block in a session of its own and wait until ``url`` answers."""
        log = Path(tempfile.mkstemp(dir=self.folder.parent, suffix=".log")[1])
        with log.open("wb") as sink:
            process = subprocess.Popen(
                shell,
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        self._serving.append((process, log))
        deadline = time.monotonic() + DEADLINE_S
        while not _answers(url):
            is_alive = process.poll() is None and time.monotonic() < deadline
            assert is_alive, f"{where}: {url} does not answer\n{log.read_text('utf-8')}"

    def _stop_last(self) -> None:
        """Send SIGINT, as a reader presses Ctrl-C, to the last that serves, and wait for its end."""
        process, log = self._serving.pop()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(60.0)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise AssertionError(f"Ctrl-C does not end it\n{log.read_text('utf-8')}") from None

    def _with_free_ports(self, text: str) -> str:
        """Every port of the page as the free one that stands for it."""
        return re.sub(r"\b(80\d\d|909[03])\b", lambda found: self.port(found[0]), text)


def _find_port() -> str:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        time.sleep(0.1)  # polls a fact with a deadline
        return False


def _is_shown(expected: str, output: str) -> bool:
    """Whether an output is what the page shows; ``…`` stands for anything."""
    pattern = ".*".join(re.escape(part) for part in expected.strip().split("…"))
    return re.fullmatch(pattern, output.strip(), re.DOTALL) is not None


def _read_log(text: str) -> str:
    """What a command says on stderr, its JSON lines as it logs them on a terminal."""
    return "\n".join(map(_read_line, text.splitlines()))


def _read_line(line: str) -> str:
    try:
        fields = json.loads(line)
        seconds = datetime.datetime.fromisoformat(fields.pop("time")).timestamp()
        level = logging.getLevelNamesMapping()[fields.pop("level").upper()]
        record = logging.LogRecord(fields.pop("part"), level, "", 0, fields.pop("event"), None, None)
    except (ValueError, KeyError, AttributeError, TypeError):
        return line
    record.created, record.fields = seconds, fields
    return _HumanFormatter().format(record)


def _copy_checkout(folder: Path) -> None:
    """Copy what is committed or about to be, and set up the environment of these tests as its own."""
    for path in list_files():
        if path.name != ".venv":  # a link, where the environment is elsewhere
            copy = folder / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy, follow_symlinks=False)
    _link_environment(folder / ".venv")


def _link_environment(environment: Path) -> None:
    """The packages of these tests under another folder, with commands and an ``activate`` that stay in it."""
    programs = environment / "bin"
    programs.mkdir(parents=True)
    for name in ("lib", "pyvenv.cfg"):
        (environment / name).symlink_to(Path(sys.prefix) / name)
    for program in (Path(sys.prefix) / "bin").iterdir():
        if program.name not in {"activate", "timberline"}:
            (programs / program.name).symlink_to(program)
    # Its own names the interpreter that it was installed for, which may have another checkout.
    command = programs / "timberline"
    command.write_text(f'#!/bin/sh\nexec "{programs}/python" -m timberline "$@"\n', "utf-8")
    command.chmod(0o755)
    activate = (Path(sys.prefix) / "bin" / "activate").read_text("utf-8")
    (programs / "activate").write_text(activate.replace(sys.prefix, str(environment)), "utf-8")
    (environment / ".installed").touch()  # later than every copy: `make setup` has nothing to do
