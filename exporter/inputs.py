"""What an export reads: a finished run, its evaluation, the test split; whole and belonging together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from registry.errors import ConfigError, StageError
from registry.ground.settings import apply_overrides, convert_settings
from registry.ground.stages import Receipt, find_current, read_receipt
from registry.manifest import Metrics
from registry.runs import ExportSettings, RunRecord, find_run, read_run


@dataclass(frozen=True)
class ExportInputs:
    """A finished run and everything it refers to, by path; every byte was checked against its receipt."""

    run: RunRecord
    run_digest: str
    settings: ExportSettings
    metrics: Metrics
    saved_model: Path
    test_parquet: Path


class _Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    export: ExportSettings


def load_inputs(
    data: Path, model: str, run_id: str | None = None, *, overrides: Iterable[str] = ()
) -> ExportInputs:
    """Find the run, its evaluation and its test split under ``data``.

    Args:
        run_id: the run; None is the one that trained last.
        overrides: ``export.key=value``; what else a run was made with cannot change any more.

    Raises:
        StageError: a stage before this one has not run, or its files are damaged or belong to
            another run; names the command to run.
        ConfigError: an override is not of [export].
    """
    folder = find_run(data, model, run_id)
    run = read_run(folder)
    run_receipt = _require_stage(folder, f"make train MODEL={model}")
    test_parquet = data / run.test_parquet
    prepared = _require_stage(test_parquet.parent, f"make etl MODEL={model}")
    evaluation = folder.with_name(f"{run.run_id}.evaluation")
    evaluated = _require_stage(evaluation, f"make evaluate MODEL={model}")
    found = {"run": run_receipt.digest, "prepared": prepared.digest}
    for name, digest in found.items():
        if evaluated.inputs.get(name, digest) != digest:
            raise StageError(
                f"the evaluation belongs to another {name}: it names {evaluated.inputs[name][:12]}…, "
                f"there is {digest[:12]}…",
                where=str(evaluation),
                hint=f"Run `make train evaluate MODEL={model}`.",
            )
    return ExportInputs(
        run=run,
        run_digest=run_receipt.digest,
        settings=_override(run.export, overrides),
        metrics=_read_metrics(evaluation / "metrics.json"),
        saved_model=data / run.saved_model,
        test_parquet=test_parquet,
    )


def _require_stage(folder: Path, command: str) -> Receipt:
    receipt = read_receipt(folder)
    if receipt is None:
        raise StageError("this stage has not run", where=str(folder), hint=f"Run `{command}`.")
    if find_current(folder, receipt.stage, receipt.inputs) is None:
        raise StageError(
            "a file is missing or has other bytes than the receipt says",
            where=str(folder),
            hint=f"Run `{command}` again.",
        )
    return receipt


def _read_metrics(path: Path) -> Metrics:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Metrics)
    except (FileNotFoundError, msgspec.DecodeError) as error:
        raise StageError(
            f"not readable as metrics: {error}", where=str(path), hint="Run `make evaluate` again."
        ) from error


def _override(settings: ExportSettings, overrides: Iterable[str]) -> ExportSettings:
    tree = {"export": msgspec.to_builtins(settings)}
    changed = apply_overrides(tree, overrides)
    for key in changed:
        if not key.startswith("export."):
            raise ConfigError(
                f"{key} is fixed by the run; an export can only change [export]",
                where=f"--set {key}",
                hint="Train again with it.",
            )
    return convert_settings(tree, _Settings, where="run.json", changed=changed).export
