"""The yardstick of the ETL: DuckDB's bare COPY of a CSV file to Parquet, in a process of its own."""

from __future__ import annotations

import sys

import duckdb


def copy_table(source: str, target: str) -> None:
    """Copy ``source`` (CSV) to ``target`` (Parquet) with every setting at its default."""
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT * FROM read_csv('{source}')) TO '{target}' (FORMAT parquet)")


if __name__ == "__main__":
    copy_table(sys.argv[1], sys.argv[2])
