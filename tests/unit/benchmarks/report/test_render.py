"""What holds for every template."""

from __future__ import annotations

import msgspec
import pytest
from jinja2 import UndefinedError

from tests.support.records import build_record
from tests.support.verdicts import RATIO, make_verdict
from timberline.benchmarks.report.markdown import write_markdown
from timberline.benchmarks.report.page import write_page
from timberline.benchmarks.report.record import GateRecord
from timberline.benchmarks.report.render import render


def test_a_value_that_is_missing_is_an_error() -> None:
    """An empty cell in its place would look like a value that was not measured."""
    with pytest.raises(UndefinedError, match="history"):
        render("history.html")


def test_bytes_of_a_path_that_are_no_text_are_replaced() -> None:
    """Python reads such a path with lone surrogates, which UTF-8 cannot write."""
    verdict = make_verdict(msgspec.structs.replace(RATIO, reason="no file /data/\udcff.csv"))
    record = GateRecord(verdict, (), None, build_record(restarts=0).settings)
    for document in (write_page(record), write_markdown(verdict)):
        assert b"no file /data/?.csv" in document
