"""The screenshots of the docs, taken of a real release: `make pictures`.

    python -m tests.support.pictures [MODEL] [--data DIR] [--registry DIR]

Two versions are released, the second one trained with another seed; the gate's report and the page of the
service that serves them are opened in a headless Chromium. What is done already in DIR is not done again,
so a gate that was INCONCLUSIVE on a busy machine is tried again by the same command.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import subprocess
import sys
from http import HTTPStatus
from pathlib import Path

from PIL import Image

from tests.support.browser import Browser, running_browser
from tests.support.markdown import ROOT
from tests.support.service import RunningService, running_service
from timberline.registry.aliases import open_reference
from timberline.registry.manifest import Manifest
from timberline.registry.names import ModelRef
from timberline.registry.store import open_store

FOLDER = ROOT / "docs" / "images"
NAMES = ("report.png", "page.png")
WIDTH = 1200
MOST_BYTES = 150_000
_COLORS = 64  # flat areas, text and a few hues
_SEEDS = (0, 1)
# The page shows how long its first prediction took: of a busy machine's answers a calm one is shown.
_MOST_LOADS = 50
_CALM_MS = 4.0


def release_twice(model: str, data: Path, registry: Path) -> Path:
    """Release two versions of ``model``.

    Returns:
        The report of the gate between them.

    Raises:
        SystemExit: the first release, or a stage before the gate of the second one, has failed.
    """
    for seed in _SEEDS:
        code = subprocess.run(
            [
                *(sys.executable, "-m", "timberline", "release", model, "--set", f"training.seed={seed}"),
                *("--models", str(ROOT / "models"), "--data", str(data), "--registry", str(registry)),
            ],
            check=False,
        ).returncode
        reports = sorted((data / "gates" / model).glob(f"{seed + 1}-*/report.html"))
        if not reports or (code and seed == _SEEDS[0]):
            sys.exit(f"the release with training.seed={seed} ended with {code}")
    return reports[0]


def take_pictures(report: Path, registry: Path, model: str, folder: Path) -> None:
    """Write the pictures of a gate's report and of the page of ``model@production`` into ``folder``."""
    with running_browser() as browser, running_service(registry, model) as service:
        browser.resize(WIDTH, 900)
        browser.open(report.resolve().as_uri())
        _write_png(_capture(browser, "#closeness"), folder / NAMES[0])
        _ask(service, open_reference(open_store(registry), ModelRef.parse(model)).manifest)
        for _ in range(_MOST_LOADS):
            browser.open(f"http://127.0.0.1:{service.port}/")
            browser.wait_for("(document.getElementById('answered')?.textContent ?? '') !== ''")
            if float(browser.text("#latency").split()[0]) < _CALM_MS:
                break
        _write_png(_capture(browser, "#try"), folder / NAMES[1])


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
    options = parser.parse_args()
    report = release_twice(options.model, options.data, options.registry)
    verdict = json.loads(report.with_name("verdict.json").read_text("utf-8"))
    print(f"the gate said {verdict['outcome']}: {report}")
    take_pictures(report, options.registry, options.model, FOLDER)


if __name__ == "__main__":
    main()
