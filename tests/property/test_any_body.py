"""Whatever is sent to the real service is answered: rows or an error in the one shape, never a 5xx."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.service import RunningService, Serve

LIMITS = (
    "--max-rows",
    "3",
    "--max-body-bytes",
    "2000",
    "--inline-max-rows",
    "1",
    "--inline-max-body-bytes",
    "99",
)
TYPES = (
    "application/json",
    "text/csv",
    "text/csv; header=absent",
    "application/octet-stream",
    "application/jsonlines",
)
ACCEPTS = (
    "*/*",
    "*/*",
    "application/octet-stream",
    "text/csv",
    "text/csv;header=present",
    "application/jsonlines",
)
pieces = st.sampled_from(
    [
        *(
            b'{"rings":40}',
            b'{"instances":[',
            b'{"rings":',
            b"]}",
            b"[",
            b"}",
            b'"',
            b":",
            b",",
            b"null",
            b"NaN",
        ),
        *(b"0,40,0,1\n", b"clay,0,40,0,1,\n", b"rings\n", b"40\n", b"\r\n", b"1e999", b"-", b"\xff", b"\x00"),
        *(
            b"\x00\x00\x80\x3f" * 4,
            b"\x00\x00\xc0\x7f",
            b"\x1f\x8b\x08",
            b"\xef\xbb\xbf",
            b"\\u0000",
            b"true",
        ),
    ]
)
bodies = st.one_of(
    st.lists(pieces, max_size=6).map(b"".join), st.binary(max_size=64), st.just(b"1,1,1,1\n" * 300)
)
codings: dict[str, Callable[[bytes], bytes]] = {
    "": lambda body: body,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": lambda body: body,
}


@pytest.fixture(scope="module", params=["tiny", "tiny_text"])
def service(request: pytest.FixtureRequest, serve: Serve) -> RunningService:
    """A version with numbers only and one with strings, with limits that are soon reached."""
    return serve(request.param, *LIMITS)


@settings(max_examples=250, deadline=None)
@given(
    body=bodies,
    content_type=st.sampled_from(TYPES),
    coding=st.sampled_from(["", "", "", *codings]),
    is_compressed=st.booleans(),
    query=st.sampled_from(["", "", "?probabilities=false", "?probabilities=", "?%ff=%00", "?a&b"]),
    accept=st.sampled_from(ACCEPTS),
)
@example(b'{"rings":40}', TYPES[0], "gzip", True, "", "*/*")
@example(b"0,40,0,1\n", TYPES[1], "", False, "", "application/octet-stream")
@example(b'{"rings":40}\n{"rings":40}', TYPES[4], "", False, "", "text/csv")
def test_any_body_is_answered(
    service: RunningService,
    body: bytes,
    content_type: str,
    coding: str,
    is_compressed: bool,
    query: str,
    accept: str,
) -> None:
    """A stranger's bytes must not be able to make an error that is ours."""
    headers = {"Content-Type": content_type, "Accept": accept}
    if coding:
        headers["Content-Encoding"] = coding
    sent = codings[coding](body) if is_compressed else body
    status, answered, answer = service.request("POST", f"/predict{query}", sent, headers)
    if status == 200:
        assert answered["x-model-version"]
    else:
        assert status in {400, 413, 415}
        error = json.loads(answer)
        assert list(error) == ["error"]
        assert 0 < len(error["error"]) < 400
