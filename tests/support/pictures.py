"""The screenshots of the docs, taken of a real release: `make pictures`.

    python -m tests.support.pictures [MODEL] [--data DIR] [--registry DIR] [--report FILE]

Two versions are released, the second one trained with another seed. The gate's report and the page of the
version that it judged are opened in a headless Chromium. Stages whose inputs have not changed are skipped, so
a gate that was INCONCLUSIVE on a busy machine is tried again by the same command.
"""

from __future__ import annotations

import argparse
import base64
import io
import subprocess
import sys
from http import HTTPStatus
from pathlib import Path

from PIL import Image

from tests.support.browser import Browser, running_browser
from tests.support.markdown import ROOT
from tests.support.service import RunningService, running_service
from timberline.registry.aliases import resolve
from timberline.registry.manifest import Manifest
from timberline.registry.names import CANDIDATE, ModelRef
from timberline.registry.store import open_store
from timberline.registry.verdict import VERDICT_FILE, decode_verdict

FOLDER = ROOT / "docs" / "images"
NAMES = ("report.png", "page.png")
WIDTH = 1200
MOST_BYTES = 150_000
_COLORS = 256  # text on flat areas; with fewer, the limit and the margin have one colour
_SEEDS = (1, 0)
# The page shows how long a prediction took, and of a row whether it was right.
_MOST_ROWS = 100
_CALM_MS = 5.0


def release_twice(model: str, data: Path, registry: Path) -> Path:
    """Release two versions of ``model``.

    Returns:
        The report of the last gate, whatever it said.

    Raises:
        SystemExit: a stage before a gate has failed.
    """
    for seed in _SEEDS:
        code = subprocess.run(
            [
                *(sys.executable, "-m", "timberline", "release", model, "--set", f"training.seed={seed}"),
                *("--models", str(ROOT / "models"), "--data", str(data), "--registry", str(registry)),
            ],
            check=False,
        ).returncode
    candidate = resolve(open_store(registry), ModelRef(model, alias=CANDIDATE))
    reports = sorted((data / "gates" / model).glob(f"{candidate}-vs-*/report.html"))
    if not reports:
        sys.exit(f"the release ended with {code}, and there is no report of version {candidate}")
    return reports[-1]


def take_pictures(report: Path, registry: Path, folder: Path) -> None:
    """Write the pictures of a gate's report and of the page of the version that it judged into ``folder``."""
    verdict = decode_verdict(report.with_name(VERDICT_FILE).read_bytes())
    print(f"the gate said {verdict.outcome}: {report}")
    version = open_store(registry).open_version(verdict.model, verdict.candidate.version)
    with running_browser() as browser, running_service(registry, str(version)) as service:
        browser.resize(WIDTH, 900)
        browser.open(report.resolve().as_uri())
        _write_png(_capture(browser, "#headroom"), folder / NAMES[0])
        _ask(service, version.manifest)
        browser.open(f"http://127.0.0.1:{service.port}/")
        _find_calm_row(browser)
        _write_png(_capture(browser, "#try"), folder / NAMES[1])


def _find_calm_row(browser: Browser) -> None:
    """Ask for test rows until one is answered rightly, and without waiting for a busy machine."""
    for _ in range(_MOST_ROWS):
        browser.wait_for("(document.getElementById('answered')?.textContent ?? '') !== ''")
        # A late answer to the row before may still come.
        browser.evaluate("new Promise(done => setTimeout(done, 300))")
        is_right = browser.evaluate("document.getElementById('truth').dataset.kind === 'right'")
        if is_right and float(browser.text("#latency").split()[0]) < _CALM_MS:
            break
        browser.evaluate("document.getElementById('answered').textContent = ''")
        browser.click("#random")
    browser.evaluate("document.activeElement.blur(); scrollTo({top: 0, behavior: 'instant'})")
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)


def _ask(service: RunningService, manifest: Manifest) -> None:
    """Ask for the golden rows, so that the page has traffic to show."""
    names = [column.name for column in manifest.signature.columns]
    for row in manifest.golden.rows:
        status, _, body = service.request("POST", "/predict", dict(zip(names, row, strict=True)))
        assert status == HTTPStatus.OK, body


def _capture(browser: Browser, last: str) -> bytes:
    """The page down to the end of the element ``last``: what it is like, and not all of it."""
    end = browser.evaluate(f"document.querySelector('{last}').getBoundingClientRect().bottom + scrollY")
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": int(end) + 16, "scale": 1}
    shot = browser.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
    return base64.b64decode(shot["data"])


def _write_png(shot: bytes, path: Path) -> None:
    """Write it with a palette: a quarter of the bytes.

    Raises:
        SystemExit: it is too large all the same.
    """
    picture = Image.open(io.BytesIO(shot)).convert("RGB").quantize(_COLORS, dither=Image.Dither.NONE)
    path.parent.mkdir(exist_ok=True)
    picture.save(path, optimize=True)
    if (size := path.stat().st_size) > MOST_BYTES:
        sys.exit(f"{path.name} has {size:,} bytes, at most {MOST_BYTES:,} are wanted")
    print(f"{path.relative_to(ROOT)}: {picture.width} x {picture.height}, {size:,} bytes")


def main() -> None:
    """Release, and take the pictures."""
    kept = ROOT / "var" / "pictures"
    parser = argparse.ArgumentParser(description="Take docs/images of a real release.")
    parser.add_argument("model", nargs="?", default="forest_cover")
    parser.add_argument("--data", type=Path, default=kept / "data")
    parser.add_argument("--registry", type=Path, default=kept / "registry")
    parser.add_argument("--report", type=Path, help="of a gate in that registry: nothing is released")
    options = parser.parse_args()
    report = options.report or release_twice(options.model, options.data, options.registry)
    take_pictures(report, options.registry, FOLDER)


if __name__ == "__main__":
    main()
