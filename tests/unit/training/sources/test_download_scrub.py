"""What may be shown of a text that came from outside."""

from __future__ import annotations

import base64
import urllib.parse

import pytest

from tests.support.sources import SECRET
from timberline.training.sources.download import scrub, show_url


@pytest.mark.parametrize(
    "form", [SECRET, urllib.parse.quote(SECRET + "/+", safe=""), base64.b64encode(SECRET.encode()).decode()]
)
def test_a_known_secret_is_hidden_in_every_form(form: str) -> None:
    """Headers carry it in base64, URLs percent-encoded."""
    shown = scrub(f"refused: key={form}!", [SECRET, SECRET + "/+"])
    assert form not in shown
    assert shown == "refused: key=***!"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET https://ann:pw@host/simple failed", "GET https://***@host/simple failed"),
        ("url: /b/f.zip?X-Goog-Signature=ab12&n=1 (Caused", "url: /b/f.zip?*** (Caused"),
        ("Authorization: Bearer KGAT_abcdef.gh", "Authorization: Bearer ***"),
        ("what? no secret here", "what? no secret here"),
        ("two\n  lines", "two lines"),
    ],
)
def test_what_looks_like_a_credential_is_hidden(text: str, shown: str) -> None:
    """Not every secret is known: a proxy's or an index's password is not."""
    assert scrub(text) == shown


def test_a_long_text_is_cut() -> None:
    """A server's page must not become our error message."""
    assert len(scrub("x" * 10_000)) == 300


def test_an_empty_secret_hides_nothing() -> None:
    """An unset variable must not turn every message into stars."""
    assert scrub("plain", [""]) == "plain"


def test_a_url_is_shown_without_userinfo_and_query() -> None:
    """Both are credentials."""
    assert show_url("https://a:b@host:8443/p/t.csv?sig=1#x") == "https://host:8443/p/t.csv"
