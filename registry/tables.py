"""The registry for people on a terminal: plain aligned text, no colour, no box."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from timberline.registry.aliases import AliasRecord
from timberline.registry.catalog import VerdictSummary, VersionDetails, VersionSummary
from timberline.registry.checks import Check
from timberline.registry.manifest import Interval, Manifest
from timberline.registry.names import ModelRef


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Columns as wide as their widest cell, two spaces apart; those named in ``right`` end flush."""
    # A manifest's text may hold anything; a control character would move the cursor, not fill a cell.
    lines = [list(header), *([_printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(header))]

    def pad(name: str, cell: str, width: int) -> str:
        return cell.rjust(width) if name in right else cell.ljust(width)

    return "\n".join("  ".join(map(pad, header, line, widths)).rstrip() for line in lines) + "\n"


def versions_table(summaries: Sequence[VersionSummary], location: str) -> str:
    """One line a version."""
    if not summaries:
        return f"No version in {location}. `python -m exporter export` publishes one.\n"
    header = ("model", "version", "created (UTC)", "accuracy [95 %]", "model.onnx", "aliases", "verdict")
    rows = [
        (
            summary.model,
            str(summary.version or "-"),
            _minute(summary.created_at),
            format_interval(summary.accuracy),
            format_size(summary.model_bytes),
            ", ".join(_name_alias(alias, summary.forced) for alias in summary.aliases) or "-",
            f"DAMAGED: {summary.problem}" if summary.problem else format_verdict(summary.verdict),
        )
        for summary in summaries
    ]
    return render_table(header, rows, right=("version", "model.onnx"))


def history_table(records: Sequence[AliasRecord]) -> str:
    """One line a move, the latest first."""
    header = ("alias", "move", "to", "how", "when (UTC)", "by", "why")
    rows = [
        (
            record.alias,
            str(record.sequence),
            str(ModelRef(record.model, record.version)),
            f"{record.action}, FORCED" if record.forced else record.action,
            _minute(record.moved_at),
            record.moved_by,
            record.reason,
        )
        for record in reversed(records)
    ]
    return render_table(header, rows, right=("move",))


def checks_table(checks: Sequence[Check]) -> str:
    """One line a version or alias."""
    rows = [
        (check.name, "whole" if check.is_whole else "DAMAGED", check.path, check.findings) for check in checks
    ]
    return render_table(("name", "state", "path", "findings"), rows)


def details_text(details: VersionDetails) -> str:
    """Everything about one version, in sections."""
    manifest = details.manifest
    metrics, lineage = manifest.metrics, manifest.lineage
    facts = [
        ("title", manifest.title),
        ("created (UTC)", _minute(manifest.created_at)),
        ("aliases", ", ".join(details.aliases) or "-"),
        ("verdict", format_verdict(details.verdict)),
        ("accuracy", f"{format_interval(metrics.accuracy)} (95 %) on {metrics.rows:,} test rows"),
        ("log-loss, ECE", f"{metrics.log_loss:.4f}, {metrics.ece:.4f}"),
        ("baselines", ", ".join(f"{name} {value:.4f}" for name, value in metrics.baselines.items())),
        ("prior", manifest.prior.method),
        ("run", f"{lineage.run_id}, seed {lineage.seed}, commit {(lineage.git_commit or 'unknown')[:12]}"),
        ("data", f"{lineage.data_fingerprint[:16]}… {lineage.attribution}"),
        ("made with", ", ".join(f"{name} {value}" for name, value in manifest.producers.items())),
        ("runs in", f"ONNX Runtime {manifest.minimum_onnxruntime or '(not known)'} and later"),
    ]
    width = max(len(name) for name, _ in facts)
    head = "".join(f"{name.ljust(width)}  {_printable(value)}\n" for name, value in facts)
    title = str(ModelRef(manifest.model, manifest.version))
    moves = [history_table(details.moves[::-1])] if details.moves else []
    problems = [render_table(("problems",), [(problem,) for problem in details.problems])]
    return "\n".join(
        [f"{title}\n{head}", *(problems if details.problems else []), *moves, *_sections(manifest)]
    )


def format_interval(interval: Interval | None) -> str:
    """``0.7965 [0.7954, 0.7976]``; ``-`` for None."""
    return f"{interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]" if interval else "-"


def format_size(count: int | None) -> str:
    """Bytes in decimal units: ``950 B``, ``1.2 MB``; ``-`` for None."""
    if count is None:
        return "-"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def format_verdict(verdict: VerdictSummary | None) -> str:
    """``PASS (against 3)``, ``PASS (first version), WARN: baseline``, ``none``, or why it is void."""
    if verdict is None:
        return "none"
    if not verdict.is_bound:
        return f"void: {verdict.outcome} for other bytes"
    if not verdict.is_sealed:
        return f"void: {verdict.outcome} without a seal"
    if verdict.is_rolled_back:
        return f"void: {verdict.outcome} before a rollback"
    against = "first version" if verdict.champion is None else f"against {verdict.champion}"
    return f"{verdict.outcome} ({against})" + (
        f", WARN: {', '.join(verdict.warned)}" if verdict.warned else ""
    )


def _name_alias(alias: str, forced: Sequence[str]) -> str:
    return f"{alias} (FORCED)" if alias in forced else alias


def _sections(manifest: Manifest) -> list[str]:
    classes = [
        (kind.value, kind.label, *_scores(manifest, kind.value)) for kind in manifest.signature.classes
    ]
    columns = [
        (
            column.name,
            column.datatype,
            column.unit or "-",
            "required" if not column.may_be_absent else str(column.default),
            ", ".join(column.categories)[:60]
            if column.categories
            else _range(column.minimum, column.maximum),
        )
        for column in manifest.signature.columns
    ]
    files = [(name, format_size(file.size), file.sha256) for name, file in sorted(manifest.files.items())]
    parity = [
        (
            name,
            f"{tensor.rows:,}",
            f"{tensor.worst_absolute_error:.2e}",
            str(tensor.worst_row),
            f"{tensor.atol:g}",
        )
        for name, tensor in manifest.parity.items()
    ]
    scores = ("precision", "recall", "F1", "rows")
    numbers = ("rows", "worst error", "in row", "atol")
    return [
        render_table(("class", "label", *scores), classes, right=scores),
        render_table(("column", "type", "unit", "default", "seen in training"), columns),
        render_table(("parity", *numbers), parity, right=numbers),
        render_table(("file", "size", "SHA-256"), files, right=("size",)),
    ]


def _scores(manifest: Manifest, value: str) -> tuple[str, str, str, str]:
    scores = manifest.metrics.classes.get(value)
    if scores is None:
        return ("-", "-", "-", "-")
    return (f"{scores.precision:.4f}", f"{scores.recall:.4f}", f"{scores.f1:.4f}", f"{scores.rows:,}")


def _range(minimum: float | None, maximum: float | None) -> str:
    return "-" if minimum is None or maximum is None else f"{minimum:g} to {maximum:g}"


def _minute(instant: str | None) -> str:
    """``2026-11-22T09:30:00+00:00`` → ``2026-11-22 09:30``."""
    return "-" if instant is None else instant[:16].replace("T", " ")


def _printable(text: str) -> str:
    return "".join("\ufffd" if unicodedata.category(letter).startswith("C") else letter for letter in text)
