"""A real headless Chromium, driven over its DevTools protocol.

with running_browser() as browser:
    browser.open(url)
    browser.click("#random")
    browser.wait_for("document.title !== ''")

Everything that the page says or asks for is kept: ``requests`` (addresses), ``bodies`` (what was
posted, as JSON) and ``complaints`` (errors and warnings of the console, exceptions, violations of
the page's policy). It has a profile of its own, thrown away at the end, and resolves no name: only
loopback can be reached.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Far beyond what starting the browser or any answer takes, so that a busy machine fails no test.
DEADLINE_S = 60.0
FLAGS = (
    "--headless",
    "--no-sandbox",  # tests may run as root, in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-default-browser-check",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-port=0",
    "about:blank",
)
_COMPLAINTS = {"error", "warning", "assert"}
_KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "ArrowDown": 40, "Home": 36, "End": 35, "Tab": 9, "Enter": 13}
# The contrast of every text with what lies behind it, by WCAG 2.2's definition; colours are read
# from a canvas, as computed ones come in several notations.
CONTRASTS = """(() => {
  const context = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const paint = colors => {
    context.clearRect(0, 0, 1, 1);
    for (const color of colors) { context.fillStyle = color; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = rgb => rgb.map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const found = {};
  for (const element of document.querySelectorAll('body *')) {
    const style = getComputedStyle(element);
    const hasText = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    const box = element.getBoundingClientRect();
    if (!hasText || box.width < 2 || element.matches(':disabled, .skip, script, noscript')) continue;
    const behind = [];
    for (let at = element; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
    const back = paint(behind);
    const [a, b] = [luminance(paint([...behind, style.color])), luminance(back)].sort((x, y) => y - x);
    found[`${element.tagName} ${element.className} ${element.textContent.trim().slice(0, 30)}`] =
      (a + 0.05) / (b + 0.05);
  }
  return found;
})()"""


def find_browser() -> str:
    """The path of a Chromium; without one the test is skipped, but fails where CI runs."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        message = "there is no Chromium here: install Debian's package `chromium`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path


class Browser:
    """One tab; ``endpoint`` is the address of its DevTools."""

    def __init__(self, endpoint: str) -> None:
        self._socket = websocket.create_connection(endpoint, timeout=DEADLINE_S, suppress_origin=True)
        self._last = 0
        self._loads = 0
        self.requests: list[str] = []
        self.bodies: list[Any] = []
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """The result of one DevTools command; events that come meanwhile are noted."""
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._last:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            if "method" in message:
                self._note(message["method"], message["params"])

    def open(self, url: str) -> None:
        """Go to ``url`` and wait until it is loaded."""
        loads = self._loads
        self.call("Page.navigate", url=url)
        self.wait_until(lambda: self._loads > loads, f"{url} to load")

    def evaluate(self, expression: str) -> Any:
        """The JSON value of an expression, or of its promise, in the page."""
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in result, (expression, result["exceptionDetails"])
        return result["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """The value of ``expression`` as soon as it is true."""
        return self.wait_until(lambda: self.evaluate(expression), expression)

    def text(self, selector: str) -> str:
        """What a person reads in the first element for ``selector``."""
        found = self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")
        assert isinstance(found, str)
        return found

    def click(self, selector: str) -> None:
        """Scroll to the element and click into its middle."""
        x, y = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, selector: str, key: str, times: int = 1) -> None:
        """Put the keyboard's focus on the element and press ``key``."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        for _ in range(times):
            for kind in ("rawKeyDown", "keyUp"):
                self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=_KEYS[key])

    def type(self, selector: str, text: str) -> None:
        """Replace what stands in a field by typing."""
        self.evaluate(f"(e => {{ e.focus(); e.select(); }})(document.querySelector({json.dumps(selector)}))")
        self.call("Input.insertText", text=text)

    def resize(self, width: int, height: int, *, scheme: str = "light", is_still: bool = True) -> None:
        """Be a screen of this size in CSS pixels, in a ``light`` or ``dark`` scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        if is_still:
            features.append({"name": "prefers-reduced-motion", "value": "reduce"})
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path) -> None:
        """The whole page, beyond the screen too, as a PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """Let go of the tab."""
        self._socket.close()

    def wait_until(self, is_true: Callable[[], Any], what: str) -> Any:
        """The value of ``is_true()`` as soon as it is one; looks again at every frame of the page."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            if value := is_true():
                return value
            self.call("Runtime.evaluate", expression="new Promise(requestAnimationFrame)", awaitPromise=True)
        raise AssertionError(f"waited in vain for: {what}; complaints: {self.complaints}")

    def _note(self, method: str, event: Any) -> None:
        if method == "Page.loadEventFired":
            self._loads += 1
        elif method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
            if "postData" in event["request"]:
                self.bodies.append(json.loads(event["request"]["postData"]))
        elif method == "Runtime.exceptionThrown":
            details = event["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and event["type"] in _COMPLAINTS:
            self.complaints.append(str(event["args"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in _COMPLAINTS:
            self.complaints.append(event["entry"]["text"])


@contextlib.contextmanager
def running_browser() -> Iterator[Browser]:
    """Start a browser with one empty tab, and end it and all its processes."""
    command = find_browser()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [command, f"--user-data-dir={profile}", *FLAGS],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            browser = Browser(_find_tab(process, Path(profile, "DevToolsActivePort")))
            with contextlib.closing(browser):
                yield browser
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _find_tab(process: subprocess.Popen[bytes], announced: Path) -> str:
    """The DevTools address of the first tab; the browser writes its port into a file of its profile."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the browser ended with {process.returncode}"
        lines = announced.read_text().split() if announced.exists() else []
        if lines:
            with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json/list", timeout=DEADLINE_S) as page:
                tabs = [tab for tab in json.load(page) if tab["type"] == "page"]
            if tabs:
                return str(tabs[0]["webSocketDebuggerUrl"])
        time.sleep(0.02)  # until the browser is there; nothing tells when
    raise AssertionError("the browser did not get ready")
