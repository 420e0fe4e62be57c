"""The registry for people on a terminal: plain aligned text, no colour, no box.

First the values to show, one line a version; then the text. Damage does not stop a list: it is a line of its
own. `registry.checks` looks for it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

import msgspec

from timberline.registry.aliases import AliasRecord, History, inspect_history, list_aliases
from timberline.registry.checks import READ_ERRORS, Check, check_layout, check_root, describe, find_overview
from timberline.registry.errors import VersionNotFoundError
from timberline.registry.manifest import Histogram, Interval, Manifest, rank_values
from timberline.registry.moments import write_row
from timberline.registry.names import PRODUCTION, ModelRef
from timberline.registry.objects import ask_each
from timberline.registry.promotion import Rollbacks, find_rolled_back, group_rollbacks
from timberline.registry.signature import Column
from timberline.registry.store import Contents, Store
from timberline.registry.summary import StoredSummary, StoredVerdict, summarise_verdict
from timberline.registry.verdict import VERDICT_FILE, Outcome
from timberline.registry.version import Version

# Characters of a column's values.
_MOST_SHOWN = 60


class VerdictSummary(msgspec.Struct, frozen=True):
    """``is_bound``: given for the digests that the version has now; ``is_sealed``: its file has a seal;
    ``is_rolled_back``: production was moved back from the version since; ``warned``: lines that are
    marked WARN."""

    outcome: Outcome
    champion: int | None
    is_bound: bool
    is_sealed: bool
    is_rolled_back: bool = False
    warned: tuple[str, ...] = ()


class VersionSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One version in a list; ``problem`` says why the other fields are missing.

    ``version`` is None where the problem is one of the model, or of something beside the models.
    ``forced`` are those of ``aliases`` that were moved here without a passing verdict.
    """

    model: str
    version: int | None = None
    created_at: str | None = None
    accuracy: Interval | None = None
    model_bytes: int | None = None
    aliases: tuple[str, ...] = ()
    forced: tuple[str, ...] = ()
    verdict: VerdictSummary | None = None
    problem: str | None = None


class VersionDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one version; ``moves`` are those of all aliases to it, the latest first."""

    aliases: tuple[str, ...]
    verdict: VerdictSummary | None
    moves: tuple[AliasRecord, ...] = ()
    problems: tuple[str, ...] = ()
    manifest: Manifest


class _Aliases(msgspec.Struct, frozen=True):
    """The histories of a model's aliases by name, and what is wrong with any of them, a sentence each."""

    histories: dict[str, History]
    problems: list[str]
    rollbacks: Rollbacks

    def names_of(self, version: int) -> tuple[str, ...]:
        """The aliases that point at ``version`` now."""
        return tuple(name for name, tip in self._tips() if tip.version == version)

    def forced_to(self, version: int) -> tuple[str, ...]:
        """Those among them whose last move forward to it was forced."""
        return tuple(name for name in self.names_of(version) if self._is_forced(name, version))

    def moves_to(self, version: int) -> tuple[AliasRecord, ...]:
        """All moves to ``version``, the latest first."""
        records = [record for history in self.histories.values() for record in history.records]
        moves = (record for record in records if record.version == version)
        return tuple(sorted(moves, key=lambda record: record.moved_at, reverse=True))

    def find_lost(self, model: str, versions: list[int]) -> list[str]:
        """The aliases that point at none of ``versions``, a sentence each."""
        lost = [(name, tip.version) for name, tip in self._tips() if tip.version not in versions]
        return [f"{model}@{name}: points at version {version}, which is lost" for name, version in lost]

    def _tips(self) -> list[tuple[str, AliasRecord]]:
        """The last moves. Where a damaged alias points is not certain: it has none."""
        histories = self.histories.items()
        return [(name, each.records[-1]) for name, each in histories if each.records and not each.findings]

    def _is_forced(self, name: str, version: int) -> bool:
        records = self.histories[name].records
        forced = [each.forced for each in records if each.version == version and each.action != "rollback"]
        return forced[-1:] == [True]


def summarise_versions(store: Store, model: str | None = None) -> list[VersionSummary]:
    """Every version of ``model`` (of every model when None), oldest first, and a line for each damage.

    Only what a list shows is read: `registry.checks` finds the rest.

    Raises:
        VersionNotFoundError: there is nothing of ``model``.
        OSError: the registry cannot be read at all.
    """
    strays = [] if model else check_root(store)
    summaries = [VersionSummary(model=check.name, problem=check.findings) for check in strays]
    for name in [model] if model else store.models():
        try:
            summaries += _summarise_model(store, name)
        except VersionNotFoundError:
            if model:
                raise
            # It was emptied: as in `registry.checks.check_versions`.
        except OSError as error:
            summaries.append(VersionSummary(model=name, problem=describe(error)))
    return summaries


def read_details(store: Store, version: Version) -> VersionDetails:
    """The manifest of one version, with the aliases that point at it, its moves and its verdict."""
    model, number = version.manifest.model, version.manifest.version
    aliases = _read_aliases(store, model)
    problems = aliases.problems.copy()
    verdict = None
    try:
        data = store.read_document(model, number, VERDICT_FILE)
        if data is not None:
            verdict = _describe(summarise_verdict(data, model, version.digests), number, aliases)
    except READ_ERRORS as error:
        problems.append(describe(error))
    return VersionDetails(
        aliases=aliases.names_of(number),
        verdict=verdict,
        moves=aliases.moves_to(number),
        problems=tuple(problems),
        manifest=version.manifest,
    )


def _summarise_model(store: Store, model: str) -> list[VersionSummary]:
    aliases = _read_aliases(store, model)  # first: a version that they point at by now may be new
    contents, stored = find_overview(store, model)
    found = _read_summaries(store, model, contents, stored)
    summaries = [_summarise(model, version, aliases, found[version]) for version in contents.versions]
    checks = check_layout(store, model, contents)
    problems = [*aliases.problems, *aliases.find_lost(model, contents.versions)]
    problems += [
        check.findings if check.name == model else f"{check.name}: {check.findings}" for check in checks
    ]
    return summaries + [VersionSummary(model=model, problem=problem) for problem in problems]


def _read_summaries(
    store: Store, model: str, contents: Contents, stored: Mapping[int, StoredSummary]
) -> dict[int, StoredSummary | str]:
    """What is known of each version, by manifest and verdict where no summary is stored; or why not."""
    has_verdict = {key.split("/")[1] for key in contents.keys if key.split("/")[2:3] == [VERDICT_FILE]}

    def read(version: int) -> StoredSummary | str:
        # Of a version with a summary no other name is known.
        is_judged = version in stored or str(version) in has_verdict
        try:
            return store.summarise(model, version, has_verdict=is_judged)
        except READ_ERRORS as error:
            return describe(error)

    usable = {version: summary for version, summary in stored.items() if not summary.is_in_doubt}
    others = [version for version in contents.versions if version not in usable]
    return usable | dict(zip(others, ask_each(store.objects, read, others), strict=True))


def _summarise(model: str, version: int, aliases: _Aliases, found: StoredSummary | str) -> VersionSummary:
    summary = VersionSummary(
        model=model,
        version=version,
        aliases=aliases.names_of(version),
        forced=aliases.forced_to(version),
    )
    if isinstance(found, str):
        return msgspec.structs.replace(summary, problem=found)
    return msgspec.structs.replace(
        summary,
        created_at=found.created_at,
        accuracy=found.accuracy,
        model_bytes=found.model_bytes,
        verdict=_describe(found.verdict, version, aliases) if found.verdict else None,
    )


def _read_aliases(store: Store, model: str) -> _Aliases:
    histories, problems = {}, []
    try:
        names = list_aliases(store, model)
    except READ_ERRORS as error:
        return _Aliases({}, [describe(error)], {})
    for name in names:
        try:
            histories[name] = inspect_history(store, model, name)
            problems += histories[name].problems
        except READ_ERRORS as error:
            problems.append(f"{model}@{name}: {describe(error)}")
    production = histories.get(PRODUCTION)
    return _Aliases(histories, problems, group_rollbacks(production.records if production else []))


def _describe(verdict: StoredVerdict, version: int, aliases: _Aliases) -> VerdictSummary:
    void = find_rolled_back(aliases.rollbacks, version, verdict.created_at, verdict.sha256)
    return VerdictSummary(
        outcome=verdict.outcome,
        champion=verdict.champion,
        is_bound=verdict.is_bound,
        is_sealed=verdict.is_sealed,
        is_rolled_back=bool(void),
        warned=verdict.warned,
    )


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
        return f"No version in {location}. `timberline export` publishes one.\n"
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
            column.moment or column.datatype,
            column.unit or "-",
            "required" if not column.may_be_absent else str(write_row((column.default,), (column,))[0]),
            _seen(column, manifest.histograms.get(column.name)),
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
        *_learned(manifest),
        render_table(("parity", *numbers), parity, right=numbers),
        render_table(("file", "size", "SHA-256"), files, right=("size",)),
    ]


def _scores(manifest: Manifest, value: str) -> tuple[str, str, str, str]:
    scores = manifest.metrics.classes.get(value)
    if scores is None:
        return ("-", "-", "-", "-")
    return (f"{scores.precision:.4f}", f"{scores.recall:.4f}", f"{scores.f1:.4f}", f"{scores.rows:,}")


def _learned(manifest: Manifest) -> list[str]:
    """What features.sql has learned from the training split, if anything."""
    categories = [(category.feature, f"{category.values:,}") for category in manifest.categories]
    constants = [
        (call, f"{value:g}" if isinstance(value, float) else str(value))
        for call, value in manifest.constants.items()
    ]
    tables = []
    if categories:
        tables.append(render_table(("category", "values known"), categories, right=("values known",)))
    if constants:
        tables.append(render_table(("learned", "value"), constants))
    return tables


def _seen(column: Column, histogram: Histogram | None) -> str:
    """The range of numbers and moments; of text the commonest values with their training rows."""
    if histogram is not None and histogram.categories:
        return ", ".join(f"{value} ({count:,})" for value, count in rank_values(histogram))[:_MOST_SHOWN]
    if column.categories:
        return ", ".join(column.categories)[:_MOST_SHOWN]
    bounds = write_row((column.minimum, column.maximum), (column, column))
    if None in bounds:
        return "-"
    return " to ".join(bound if isinstance(bound, str) else f"{bound:g}" for bound in bounds)


def _minute(instant: str | None) -> str:
    """``2026-11-22T09:30:00+00:00`` → ``2026-11-22 09:30``."""
    return "-" if instant is None else instant[:16].replace("T", " ")


def _printable(text: str) -> str:
    return "".join("\ufffd" if unicodedata.category(letter).startswith("C") else letter for letter in text)
