"""A page of another origin, and a path in front, in a real browser: what it lets through and what it asks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import Browser
from tests.support.service import running_service
from tests.support.wood_model import publish_wood
from timberline.registry.store import open_store

TOKEN = "token-for-browsers-01234"


class Page(BaseHTTPRequestHandler):
    """An empty page, as some other site's."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>elsewhere</title>")

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The origin of another site: its port makes it one."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def ask(browser: Browser, url: str, headers: dict[str, str]) -> Any:
    """What a script of the open page gets from a POST: status, body, a header, or the error's name."""
    options = json.dumps({"method": "POST", "body": '{"rings":40}', "headers": headers})
    read = "async r => [r.status, await r.json(), r.headers.get('x-model-version')]"
    return browser.evaluate(f"fetch({json.dumps(url)}, {options}).then({read}, e => e.name)")


def test_a_page_of_an_allowed_origin_predicts_and_others_do_not(
    registry: Path, site: str, browser: Browser
) -> None:
    """Its content type and its token make the browser ask beforehand, with a request that has no token."""
    guarded = {"TIMBERLINE_SERVE_TOKENS": TOKEN}
    headers = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"}
    browser.open(site)
    with running_service(registry, "tiny", "--cors-origin", site, environment=guarded) as service:
        url = f"http://127.0.0.1:{service.port}/predict"
        status, answer, version = ask(browser, url, headers)
        assert (status, answer["prediction"], version) == (200, "2", "tiny@1")
        status, answer, _ = ask(browser, url, {"content-type": "application/json"})
        assert (status, list(answer)) == (401, ["error"])
    for flags in ((), ("--cors-origin", "https://app.example")):
        with running_service(registry, "tiny", *flags, environment=guarded) as service:
            url = f"http://127.0.0.1:{service.port}/predict"
            assert ask(browser, url, headers) == "TypeError"
    browser.complaints.clear()


@pytest.mark.parametrize("path", ["/models/x", "/models/x/"])
def test_the_page_asks_under_the_path_in_front(tmp_path: Path, browser: Browser, path: str) -> None:
    """Beside itself there is nothing when the slash is missing, and above the path is another service."""
    publish_wood(open_store(tmp_path))
    browser.complaints.clear()
    browser.requests.clear()
    with running_service(tmp_path, "wood@1", "--root-path", "/models/x") as service:
        home = f"http://127.0.0.1:{service.port}"
        browser.open(home + path)
        browser.wait_for("document.getElementById('answered').textContent !== ''")
        browser.wait_for("document.getElementById('dot').dataset.state === 'live'")
        asked = {url.removeprefix(home) for url in browser.requests if not url.startswith("data:")}
        assert asked == {path, "/models/x/predict", "/models/x/"}
        link = browser.evaluate("document.querySelector('footer a').href")
        assert link == f"{home}/models/x/v2/models/wood"
        assert f"{home}/models/x/predict" in browser.text("#curl")
        assert browser.complaints == []
        browser.open("about:blank")  # so that the page does not miss the service
