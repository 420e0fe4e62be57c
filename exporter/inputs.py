"""What an export reads: a finished run, its evaluation, the test split; whole and belonging together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from timberline.exporter.errors import ExportError
from timberline.exporter.parity.compare import IntArray
from timberline.registry.errors import StageError
from timberline.registry.manifest import GateLimits, Metrics
from timberline.registry.rows import SEEN_FILE, SEEN_KEY, SEEN_SCHEMA_VERSION, SeenRows
from timberline.registry.runs import BASELINES_FILE, ExportSettings, RunRecord, find_run, read_run
from timberline.registry.runtime.documents import decode_json
from timberline.registry.runtime.settings import LoggingSection, PathsSection, load_settings
from timberline.registry.runtime.stages import require_receipt
from timberline.registry.runtime.working_copy import bring, name_path


@dataclass(frozen=True)
class ExportInputs:
    """A finished run and everything it refers to, by path; every byte was checked against its receipt."""

    run: RunRecord
    run_digest: str
    export: ExportSettings
    gate: GateLimits
    metrics: Metrics
    baselines: Path
    saved_model: Path
    test_parquet: Path

    @property
    def seen_rows(self) -> Path:
        """Hashes of the rows that the run has learned from."""
        return self.test_parquet.with_name(SEEN_FILE)

    def bring(self) -> None:
        """Have the files here; where the data is in a bucket, only their receipts were read so far.

        Raises:
            DigestMismatchError: one is damaged.
            OSError: one cannot be read.
        """
        bring(self.saved_model.parent, self.saved_model.name)
        bring(self.test_parquet.parent, self.test_parquet.name, SEEN_FILE)
        bring(self.baselines.parent, self.baselines.name)


class ReleaseSettings(msgspec.Struct, frozen=True):
    """The sections of model.toml that an export reads; other parts read the others.

    Training does not read ``[export]`` and ``[gate]``: another limit or opset costs an export and no new
    network.
    """

    export: ExportSettings = ExportSettings()
    gate: GateLimits = GateLimits()
    paths: PathsSection = PathsSection()
    logging: LoggingSection = LoggingSection()


def load_release_settings(
    models: Path, model: str, *, overrides: Iterable[str] = (), environment: Mapping[str, str] | None = None
) -> ReleaseSettings:
    """Read an export's sections of ``<models>/<model>/model.toml``.

    Args:
        overrides: ``section.key=value``; those of other sections have had their effect before.
        environment: where to look for ``TIMBERLINE_EXPORT_*``, ``TIMBERLINE_GATE_*``, …

    Raises:
        ConfigError: no such file, or a value in these sections is wrong.
    """
    path = models / model / "model.toml"
    return load_settings(path, ReleaseSettings, overrides=overrides, environment=environment)


def load_inputs(data: Path, model: str, settings: ReleaseSettings, run_id: str | None = None) -> ExportInputs:
    """Find the run, its evaluation and its test split under ``data``.

    Args:
        settings: how to write the graph, and what the gate will ask of it.
        run_id: the run; None is the one that trained last.

    Raises:
        StageError: a stage before this one has not run, or its files are damaged or belong to
            another run; names the command to run.
    """
    folder = find_run(data, model, run_id)
    run = read_run(folder)
    run_receipt = require_receipt(folder, f"timberline train {model}")
    test_parquet = data / run.test_parquet
    prepared = require_receipt(test_parquet.parent, f"timberline etl {model}")
    evaluation = folder.with_name(f"{run.run_id}.evaluation")
    evaluated = require_receipt(evaluation, f"timberline evaluate {model}")
    found = {"run": run_receipt.digest, "prepared": prepared.digest}
    for name, digest in found.items():
        if evaluated.inputs.get(name, digest) != digest:
            raise StageError(
                f"the evaluation belongs to another {name}: it names {evaluated.inputs[name][:12]}…, "
                f"there is {digest[:12]}…",
                where=name_path(evaluation),
                hint=f"Run `timberline train {model}`, then `timberline evaluate {model}`.",
            )
    bring(evaluation, "metrics.json")
    return ExportInputs(
        run=run,
        run_digest=run_receipt.digest,
        export=settings.export,
        gate=settings.gate,
        metrics=_read_metrics(evaluation / "metrics.json"),
        baselines=evaluation / BASELINES_FILE,
        saved_model=data / run.saved_model,
        test_parquet=test_parquet,
    )


def _read_metrics(path: Path) -> Metrics:
    try:
        return decode_json(path.read_bytes(), Metrics)
    except (FileNotFoundError, msgspec.DecodeError) as error:
        raise StageError(
            f"not readable as metrics: {error}", where=str(path), hint="Run `timberline evaluate` again."
        ) from error


def read_baselines(path: Path, rows: int) -> dict[str, IntArray]:
    """What each baseline answers for the test rows, in their order; class indexes (rows,) by name.

    Raises:
        ExportError: the file is missing or damaged, or is about other rows.
    """
    hint = "Run `timberline evaluate` again."
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ExportError(f"cannot be read: {error}", where=str(path), hint=hint) from error
    if table.num_rows != rows:
        raise ExportError(f"is about {table.num_rows:,} rows, not {rows:,}", where=str(path), hint=hint)
    return {name: table[name].to_numpy() for name in table.column_names}


def read_seen(path: Path) -> SeenRows:
    """What the hashes in ``path`` are of.

    Raises:
        ExportError: the file is missing or damaged, or was written by another release.
    """
    hint = "Run `timberline etl`, then `timberline train` again."
    try:
        text = (pq.read_metadata(path).metadata or {})[SEEN_KEY]
        seen = decode_json(text, SeenRows)
    except FileNotFoundError:
        raise ExportError("is missing: prepared by an earlier release", where=str(path), hint=hint) from None
    except (OSError, pa.ArrowInvalid, KeyError, msgspec.DecodeError) as error:
        raise ExportError(f"cannot be read: {error}", where=str(path), hint=hint) from error
    if seen.schema_version != SEEN_SCHEMA_VERSION:
        raise ExportError(
            f"schema_version is {seen.schema_version}, this program reads {SEEN_SCHEMA_VERSION}",
            where=str(path),
            hint=hint,
        )
    return seen
