"""Gates of a self-test as rows of two CSV files: one row a gate, one row a restart.

A gate's rows are on disk before the next gate begins. A process killed while it writes leaves a torn
last line, which the next one drops; restarts without their gate's row are of a gate that never ended.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from timberline.benchmarks.errors import BenchmarkError, EvidenceError
from timberline.registry.runtime.files import lacks_locks

Row = TypeVar("Row", bound=msgspec.Struct)


class GateRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One gate.

    ``started_at`` names it. ``injected_us`` is processor time added to every request of the candidate,
    ``injected_share`` that as a share of ``base_p50_ms``: the champion's client p50 in this very gate,
    less the waits for a processor that others had, so that a busy machine makes no regression larger; or of
    ``base_service_ms`` or ``base_cpu_ms``, its net time in the service and its processor time a request.
    ``deciding`` names the lines that the outcome comes from, ``marked`` those that passed with a mark;
    ``net_p50`` to ``cpu_per_request`` are means over the restarts.
    """

    started_at: str
    machine_class: str
    gate_version: str
    config_digest: str
    model: str
    arm: str
    number: int
    seed: int
    injected_us: float
    injected_share: float
    outcome: str
    deciding: str
    marked: str
    restarts: int
    seconds: float
    load_average: float
    base_p50_ms: float
    base_service_ms: float
    base_cpu_ms: float
    champion_p50_ms: float
    candidate_p50_ms: float
    net_p50: float
    service_p50: float
    net_p99: float
    net_tail: float
    client_p50: float
    client_p99: float
    cpu_per_request: float


class RestartRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One restart of the gate ``started_at``; NaN where a service's times are not known."""

    started_at: str
    arm: str
    restart: int
    pairs: int
    problem: str
    net_p50: float
    service_p50: float
    net_p99: float
    net_tail: float
    client_p50: float
    client_p99: float
    cpu_per_request: float
    champion_p50_ms: float
    candidate_p50_ms: float
    champion_net_p50_ms: float
    candidate_net_p50_ms: float
    champion_net_p99_ms: float
    candidate_net_p99_ms: float
    champion_client_net_p50_ms: float
    candidate_client_net_p50_ms: float
    champion_client_net_p99_ms: float
    candidate_client_net_p99_ms: float
    champion_cpu_ms: float
    candidate_cpu_ms: float
    champion_lost_share: float
    candidate_lost_share: float
    champion_ready_s: float
    candidate_ready_s: float
    champion_resident_bytes: int
    candidate_resident_bytes: int


def find_restarts(path: Path) -> Path:
    """Where the restarts of the gates in ``path`` are."""
    return path.with_name(f"{path.stem}-restarts.csv")


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """The rows of a file, without a torn last line; none when there is no file.

    Raises:
        EvidenceError: the file has other columns, or a value that none can have.
    """
    if not path.is_file():
        return []
    whole = path.read_bytes()
    text = whole[: whole.rfind(b"\n") + 1].decode(errors="replace")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        return [msgspec.convert(row, kind, strict=False) for row in reader]
    except (msgspec.ValidationError, csv.Error) as error:
        raise EvidenceError(
            f"line {reader.line_num} is no row of this program: {error}",
            where=str(path),
            hint="Move the file away, or give another one with --csv.",
        ) from error


def append_rows(path: Path, rows: Sequence[msgspec.Struct]) -> None:
    """Put rows behind those that are there, on disk when it returns; drops a torn last line first."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, type(rows[0]).__struct_fields__, lineterminator="\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0)
        whole = file.read()
        file.truncate(whole.rfind(b"\n") + 1)
        if b"\n" not in whole:
            writer.writeheader()
        for row in rows:
            writer.writerow({name: _show(value) for name, value in msgspec.structs.asdict(row).items()})
        file.write(text.getvalue().encode())
        file.flush()
        os.fsync(file.fileno())


def _show(value: object) -> object:
    """A value on one line; six digits of a measured one are more than it is worth."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return " ".join(value.split()) if isinstance(value, str) else value


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other runs from writing to ``path``; ends with the process, however that ends.

    Raises:
        BenchmarkError: another run has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BenchmarkError(
                "is being written by another run", where=str(path), hint="Wait for it, or give another --csv."
            ) from None
        except OSError as error:
            if not lacks_locks(error):
                raise
            raise BenchmarkError(
                f"its file system has no file locks ({error.strerror}); two runs would mix their rows",
                where=str(path),
                hint="Give a --csv on a local disk.",
            ) from error
        yield
