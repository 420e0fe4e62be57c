"""What is asked for as the answer: names, weights, wildcards."""

from __future__ import annotations

import pytest

from timberline.inference.formats.request import JSON_MEDIA, LINES_MEDIA, Media, Request, find_wanted

CSV = Media("csv", False)
FLOATS = Media("floats")


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (None, JSON_MEDIA),
        ("", JSON_MEDIA),
        ("*/*", JSON_MEDIA),
        ("application/json", JSON_MEDIA),
        ("application/json, text/plain, */*", JSON_MEDIA),
        ("text/html, application/xhtml+xml", JSON_MEDIA),
        ("text/*", JSON_MEDIA),
        ("text/csv;q=0", JSON_MEDIA),
        ("text/csv;q=much", JSON_MEDIA),
        ("text/csv;q=0.5, */*", JSON_MEDIA),
        ("text/csv;q=0.5, application/json;q=0.6", JSON_MEDIA),
        ("text/csv, application/json", JSON_MEDIA),
        ("application/json;q=0, */*", JSON_MEDIA),
        ("text/csv, */*", CSV),
        ("TEXT/CSV ; q=1", CSV),
        ("text/csv; charset=utf-8", CSV),
        ("text/csv; header=absent", CSV),
        ("text/csv; header=present", Media("csv", True)),
        ("text/csv;header=present;q=0.5, application/json;q=0.4", Media("csv", True)),
        ("application/json;q=0.1, application/jsonlines;q=0.2", LINES_MEDIA),
        ("application/jsonlines", LINES_MEDIA),
        ("application/x-ndjson", LINES_MEDIA),
        ("application/jsonl, application/*", LINES_MEDIA),
        ("application/octet-stream", FLOATS),
        ("application/octet-stream, */*;q=0.1", FLOATS),
    ],
)
def test_the_format_with_the_highest_weight_is_answered(accept: str | None, wanted: Media) -> None:
    """A wildcard is no wish for anything but JSON, and an unknown name no reason to answer nothing."""
    headers = [(b"accept", accept.encode())] if accept is not None else []
    found = find_wanted(Request("POST", "/predict", b"", headers, b""))
    assert (found.format, bool(found.has_header)) == (wanted.format, bool(wanted.has_header))
