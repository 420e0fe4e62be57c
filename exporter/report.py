"""What an export came to, for stdout and for the log."""

from __future__ import annotations

import logging
from typing import Literal

import msgspec
import onnx

from timberline.exporter.graph.costs import RowCost
from timberline.exporter.inputs import ExportInputs
from timberline.exporter.parity.compare import Break
from timberline.exporter.parity.verify import Proof
from timberline.registry.runtime.files import digest_bytes
from timberline.registry.runtime.logs import log_event

log = logging.getLogger("exporter.report")


class ParityFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor's parity in numbers."""

    rows: int
    worst_absolute_error: float
    worst_row: int
    breaking_rows: int


class ExportResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an export came to; ``version`` is None when it was refused and nothing was published."""

    outcome: Literal["published", "skipped", "refused"]
    model: str
    run_id: str
    version: int | None
    model_sha256: str
    size_bytes: int
    node_count: int | None = None
    accuracy: float | None = None
    parity: dict[str, ParityFigures] | None = None
    breaks: tuple[Break, ...] = ()
    row: RowCost | None = None


def make_result(
    inputs: ExportInputs,
    model: onnx.ModelProto,
    data: bytes,
    proof: Proof,
    *,
    version: int | None,
    row: RowCost | None,
) -> ExportResult:
    """What the export of ``model`` (``data`` its bytes) came to; ``version`` None says refused."""
    return ExportResult(
        outcome="refused" if version is None else "published",
        model=inputs.run.model,
        run_id=inputs.run.run_id,
        version=version,
        model_sha256=digest_bytes(data),
        size_bytes=len(data),
        node_count=len(model.graph.node),
        accuracy=proof.accuracy,
        parity={
            name: ParityFigures(
                rows=part.rows,
                worst_absolute_error=part.worst_absolute_error,
                worst_row=part.worst_row,
                breaking_rows=part.breaking_rows,
            )
            for name, part in proof.report.items()
        },
        breaks=tuple(item for part in proof.report.values() for item in part.breaks),
        row=row,
    )


def log_result(result: ExportResult) -> None:
    """Say in the log what was published, or the worst rows of what was refused."""
    if result.version is not None:
        errors = {name: part.worst_absolute_error for name, part in (result.parity or {}).items()}
        worst = " ".join(f"{name} {error:.2g}" for name, error in errors.items())
        log_event(log, "published", model=result.model, version=result.version, worst_errors=worst)
        return
    for item in result.breaks:
        log.error(
            "%s: %s in source row %d is %.9g in truth and %.9g in the graph",
            item.tensor,
            item.column,
            item.row,
            item.reference,
            item.candidate,
        )
    rows = {name: part.breaking_rows for name, part in (result.parity or {}).items()}
    log_event(log, "parity is broken; nothing was published", logging.ERROR, **rows)
