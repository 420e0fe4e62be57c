"""A table of one input column, as the ETL reads its CSV file and as the service reads the same lines."""

from __future__ import annotations

import csv
import io
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.tables import read_files
from timberline.inference.errors import RequestError
from timberline.inference.formats.csv import TableReader
from timberline.registry.signature import NULL_TEXT
from timberline.training.config import ModelConfig, input_columns, load_model_config, source_table
from timberline.training.data.checks import build_checks
from timberline.training.errors import DatasetError

REFUSED = "refused"
NULL = "NULL"
_TOML = """
[model]
name = "one"
[source]
kind = "csv"
path = "never_fetched.csv"
[columns]
line = {{ type = "string", role = "key" }}
value = {{ {column}, nullable = true }}
answer = {{ type = "boolean" }}
[target]
column = "answer"
[split]
kind = "random"
[etl]
delimiter = {delimiter}
decimal = {decimal}
null_text = {null_text}
{more}
"""


def make_config(
    column: str, null_text: Sequence[str] = ("",), delimiter: str = ",", decimal: str = ".", more: str = ""
) -> ModelConfig:
    """model.toml of a table with one input; ``more`` are lines of [etl]."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "one", "model.toml")
        path.parent.mkdir()
        quoted = "[" + ", ".join(f'"{text}"' for text in null_text) + "]"
        form = {"delimiter": f'"{delimiter}"', "decimal": f'"{decimal}"', "null_text": quoted, "more": more}
        path.write_text(_TOML.format(column=column, **form), encoding="utf-8")
        return load_model_config(Path(folder), "one", use_environment=False)


def write_file(config: ModelConfig, found: Sequence[str]) -> bytes:
    """A line for each text, whose number is its key; with a header the target stands in front."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=config.etl.delimiter, lineterminator="\n")
    yes = config.etl.true_text[0] if config.etl.true_text else "yes"
    rows = [{"answer": yes, "value": text, "line": f"line {index}"} for index, text in enumerate(found)]
    if config.etl.header:
        writer.writerow(["answer", "value", "line"])
    names = ["answer", "value", "line"] if config.etl.header else ["line", "value", "answer"]
    writer.writerows([row[name] for name in names] for row in rows)
    return file.getvalue().encode()


def read_in_training(config: ModelConfig, found: Sequence[str]) -> list[Any]:
    """What the ETL makes of each text; what it refuses stops it, or is a rejected line, or breaks a rule."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "one.csv")
        path.write_bytes(write_file(config, found))
        try:
            rows, _ = read_files(config, [path], Path(folder, "scratch"))
        except DatasetError:
            if len(found) == 1:
                return [REFUSED]
            return [value for text in found for value in read_in_training(config, [text])]
    values = {line: value for line, value, _ in rows}
    has_rule = "finite" in {check.kind for check in build_checks(config, None)}
    return [
        REFUSED
        if has_rule and isinstance(value, float) and math.isinf(value)
        else (NULL if value is None else value)
        for value in (values.get(f"line {index}", REFUSED) for index in range(len(found)))
    ]


def read_in_service(config: ModelConfig, text: str) -> Any:
    """What the service makes of a body that is the file's header and the text's line."""
    columns = input_columns(config)
    reader = TableReader(columns, 10, table=source_table(config))
    try:
        feed = reader.read_csv(write_file(config, [text]), None)
    except RequestError:
        return REFUSED
    if feed.text is not None:
        value = feed.text[0, 0]
        return NULL if value == NULL_TEXT else value
    assert feed.numeric is not None
    number = float(feed.numeric[0, 0])
    return NULL if math.isnan(number) else number


def is_comparable(kind: str, text: str) -> bool:
    """Whether the two are meant to agree.

    Training keeps whole numbers up to 2^63, of which a double holds those up to 2^53 exactly; and it reads
    wide ones as decimals of 18 digits, in which a fraction below that is none.
    """
    try:
        number = abs(float(text))
    except ValueError:
        return True
    return "integer" not in kind or number == 0 or 1e-17 < number < 2**53 or not math.isfinite(number)
