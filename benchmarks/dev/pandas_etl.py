"""What `python -m training etl` does, written with pandas: read, check, split, features, profile, Parquet.

The other yardstick of the ETL, in a process of its own. It knows head splits and features that are
arithmetic, which is what the forest cover tables ask for; it is careful to do no more than the ETL.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from timberline.registry.runtime.documents import UTF_8

_QUANTILES = [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99]
_FUNCTIONS = {name: getattr(np, name) for name in ("sqrt", "power", "sin", "cos", "radians", "abs", "exp")}


def prepare_with_pandas(source: str, model: Path, target: Path) -> None:
    """Prepare ``source`` as the model folder says, and write the three splits and a profile."""
    config = tomllib.loads((model / "model.toml").read_text(UTF_8))
    columns = {n: column for name, column in config["columns"].items() for n in expand_name(name)}
    frame = pd.read_csv(source)
    inputs = [name for name in columns if name != config["target"]["column"]]
    report = _check(frame, config, columns)
    classes = frame[config["target"]["column"]].astype("category")
    frame.insert(0, "__row__", np.arange(len(frame)))
    frame.insert(1, "__class__", classes.cat.codes.astype("int16"))
    splits = _split(frame, config["split"])
    for name, expression in _computed_features((model / "features.sql").read_text(UTF_8)):
        value = eval(expression, {"__builtins__": {}, **_FUNCTIONS}, frame)
        frame[name] = np.asarray(value, dtype=np.float32)
        if not np.isfinite(frame[name]).all():
            raise SystemExit(f"feature {name} is not finite")
    hashes = pd.util.hash_pandas_object(frame[list(columns)], index=False).to_numpy()
    input_hashes = pd.Series(pd.util.hash_pandas_object(frame[inputs], index=False).to_numpy())
    profile = {
        "checks": report,
        "columns": {name: _profile(frame.loc[splits["train"], name]) for name in inputs},
        "fingerprints": {name: int(hashes[rows].sum()) for name, rows in splits.items()},
        "classes": {name: classes.iloc[rows].value_counts().to_json() for name, rows in splits.items()},
        "duplicates": int(input_hashes.duplicated(keep=False).sum()),
    }
    (target / "profile.json").write_text(json.dumps(profile), "utf-8")
    for name, rows in splits.items():
        frame.iloc[rows].to_parquet(
            target / f"{name}.parquet", compression="zstd", index=False, row_group_size=65_536
        )


def expand_name(name: str) -> list[str]:
    """``Soil_Type{1..3}`` stands for three columns."""
    match = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}", name)
    if match is None:
        return [name]
    return [f"{match[1]}{number}" for number in range(int(match[2]), int(match[3]) + 1)]


def _check(frame: pd.DataFrame, config: dict[str, Any], columns: dict[str, Any]) -> dict[str, int]:
    report = {}
    for name, column in columns.items():
        # read_csv leaves a column as text when a value in it is no number.
        if column["type"] in {"integer", "number"}:
            report[f"{name} type"] = int(frame[name].dtype.kind not in "if")
        report[f"{name} null"] = int(frame[name].isna().sum())
        if "range" in column:
            report[f"{name} range"] = int((~frame[name].between(*column["range"])).sum())
        if "allowed" in column:
            report[f"{name} allowed"] = int((~frame[name].isin(column["allowed"])).sum())
    for group, names in config.get("checks", {}).get("one_hot", {}).items():
        members = [member for name in names for member in expand_name(name)]
        report[f"{group} one-hot"] = int((frame[members].sum(axis=1) != 1).sum())
    if any(report.values()):
        raise SystemExit(f"checks failed: {report}")
    return report


def _split(frame: pd.DataFrame, split: dict[str, Any]) -> dict[str, Any]:
    random = np.random.default_rng(split.get("seed", 0))
    head = frame["__class__"].iloc[: split["rows"]]
    validation = np.concatenate(
        [
            random.permutation(rows)[: round(len(rows) * split.get("validation", 0.1))]
            for rows in head.groupby(head).indices.values()
        ]
    )
    train = random.permutation(np.setdiff1d(head.index.to_numpy(), validation))
    test = frame.index.to_numpy()[split["rows"] :]
    return {"train": train, "validation": np.sort(validation), "test": test}


def _computed_features(sql: str) -> Iterator[tuple[str, str]]:
    """Name and expression of every computed feature; arithmetic in SQL is arithmetic in Python."""
    text = re.sub(r"--[^\n]*", "", sql)
    body = re.sub(r"(?is)^\s*select\s+|\s+from\s+raw\s*;?\s*$", "", text)
    depth, start = 0, 0
    for position, character in enumerate(f"{body},"):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            item = body[start:position].strip()
            start = position + 1
            match = re.fullmatch(r"(?is)(.*?)\s+as\s+(\w+)", item)
            if match:
                yield match[2], " ".join(match[1].split())


def _profile(column: pd.Series) -> dict[str, Any]:
    counts, edges = np.histogram(column, bins=20)
    return {
        "nulls": int(column.isna().sum()),
        "minimum": float(column.min()),
        "maximum": float(column.max()),
        "mean": float(column.mean()),
        "std": float(column.std(ddof=0)),
        "quantiles": column.quantile(_QUANTILES, interpolation="lower").tolist(),
        "counts": counts.tolist(),
        "edges": edges.tolist(),
    }


if __name__ == "__main__":
    prepare_with_pandas(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
