"""Time and memory of the ETL, of DuckDB's bare COPY and of the same steps in pandas.

Each run is a process of its own, from start to exit, imports included. The three take turns in one
run, so that a disturbance of the machine falls on all of them; CPU time is reported too, because other
programs disturb it less.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from timberline.benchmarks.errors import BenchmarkError
from timberline.registry.runtime.documents import decode_json
from timberline.registry.runtime.receipts import RECEIPT

# From the project's targets: at most four bare COPYs, a third of pandas, 1 GB.
MAX_COPY_RATIO = 4.0
MAX_PANDAS_RATIO = 1 / 3
MAX_RSS_BYTES = 1_000_000_000
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes on macOS, KiB on Linux


# DuckDB's bare COPY of a CSV file to Parquet, with every setting at its default.
_BARE_COPY = """\
import sys, duckdb
source, target = sys.argv[1:]
with duckdb.connect() as connection:
    connection.execute(f"COPY (SELECT * FROM read_csv('{source}')) TO '{target}' (FORMAT parquet)")
"""


class ProcessCost(msgspec.Struct, frozen=True, kw_only=True):
    """What one process took: seconds from start to exit, CPU seconds of all threads, peak memory."""

    wall_s: float
    cpu_s: float
    peak_rss_bytes: int


class _Fetched(msgspec.Struct):
    files: list[str]


def measure_etl(
    *,
    model: str = "forest_cover",
    models: Path = Path("models"),
    data: Path = Path("var/data"),
    rounds: int = 3,
) -> dict[str, Any]:
    """Run COPY, ETL and pandas in turn on the fetched CSV file of ``model``.

    Args:
        data: holds the fetched source; the results go to a temporary folder in it.
        rounds: how often each runs; the first round also warms the file cache for all.

    Returns:
        As JSON values: for each of the three the median wall and CPU seconds and the largest
        memory; ratios of the medians; whether each target is met.

    Raises:
        BenchmarkError: a process failed, or the source is not a single CSV file.
    """
    source = _find_source(model, models, data)
    costs: dict[str, list[ProcessCost]] = {"copy": [], "etl": [], "pandas": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix=".partial-bench-", dir=data) as scratch:
            target = Path(scratch)
            (target / "raw").symlink_to((data / "raw").resolve())
            pandas_etl = "timberline.benchmarks.dev.pandas_etl"
            folders = ("--models", str(models), "--data", scratch)
            commands = {
                "copy": ["-c", _BARE_COPY, str(source), str(target / "copy.parquet")],
                "etl": ["-m", "timberline.training", "etl", "--model", model, *folders],
                "pandas": ["-m", pandas_etl, str(source), str(models / model), scratch],
            }
            for name, command in commands.items():
                costs[name].append(run_measured([sys.executable, *command]))
            if not (target / "prepared" / model / RECEIPT).is_file():
                raise BenchmarkError("the ETL left no result", where=model)
    return summarise(costs)


def run_measured(command: Sequence[str]) -> ProcessCost:
    """Run ``command`` to its end and measure that process alone.

    Raises:
        BenchmarkError: it ended with an error; the message has the end of its log.
    """
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            tail = log.read()[-2000:].decode(errors="replace")
            raise BenchmarkError(f"ended with {process.returncode}: {tail}", where=" ".join(command))
    return ProcessCost(
        wall_s=wall_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_rss_bytes=usage.ru_maxrss * _RSS_UNIT,
    )


def summarise(costs: Mapping[str, Sequence[ProcessCost]]) -> dict[str, Any]:
    """Medians, ratios of medians and targets from the costs of ``copy``, ``etl`` and ``pandas``."""
    medians = {
        name: {
            "wall_s": statistics.median(cost.wall_s for cost in runs),
            "cpu_s": statistics.median(cost.cpu_s for cost in runs),
            "peak_rss_bytes": max(cost.peak_rss_bytes for cost in runs),
        }
        for name, runs in costs.items()
    }
    etl = medians["etl"]
    ratios = {
        f"etl_to_{other}_{unit}": etl[f"{unit}_s"] / medians[other][f"{unit}_s"]
        for other in ("copy", "pandas")
        for unit in ("wall", "cpu")
    }
    return {
        "rounds": len(costs["etl"]),
        "processors": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        **medians,
        "ratios": ratios,
        "targets": {
            f"at most {MAX_COPY_RATIO:g} x COPY": ratios["etl_to_copy_wall"] <= MAX_COPY_RATIO,
            "at most a third of pandas": ratios["etl_to_pandas_wall"] <= MAX_PANDAS_RATIO,
            "at most 1 GB": etl["peak_rss_bytes"] <= MAX_RSS_BYTES,
        },
    }


def _find_source(model: str, models: Path, data: Path) -> Path:
    command = [sys.executable, "-m", "timberline.training", "fetch", "--model", model]
    command += ["--models", str(models), "--data", str(data)]
    fetched = subprocess.run(command, capture_output=True, check=False)
    if fetched.returncode:
        raise BenchmarkError(f"fetch failed: {fetched.stderr[-2000:].decode(errors='replace')}", where=model)
    files = decode_json(fetched.stdout, _Fetched).files
    if len(files) != 1 or not files[0].endswith(".csv"):
        raise BenchmarkError(f"needs one CSV file, found {files}", where=model)
    return Path(files[0])
