"""The site of the docs: every link of its HTML leads somewhere, and it shows what GitHub shows.

The generator's own check reads Markdown; this one reads what it wrote, the theme's links and the docstrings
included. Nothing here names a class or template of the theme.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import importlib
import inspect
import json
import re
import subprocess
import sys
import threading
import tomllib
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt

from tests.support.browser import running_browser
from tests.support.dialect import adapt_lists
from tests.support.markdown import ROOT, list_blocks, list_links, list_pages
from tests.support.site import API, CONFIG, DOCS, MODULE, SiteError, build_site, list_names
from tests.support.tiny_model import point_alias, publish_numeric
from timberline.registry.store import open_store

# What a browser asks for when a page is opened; a link is asked for only when it is followed.
LOADED = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}
# Shapes that the two dialects could disagree on: a list that is taken for text, a table that is not one.
SHAPES = ("ol", "ul", "li", "tr", "pre", "h1", "h2", "h3", "h4")


class Page(HTMLParser):
    """What one page of the site links to, loads, and can be linked to at."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.shapes: Counter[str] = Counter()  # within the article
        self._depth = 0
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note it."""
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in LOADED and LOADED[tag] in values and values.get("rel") not in {"prev", "next", "canonical"}:
            self.loads.append(values[LOADED[tag]])
        self._depth += tag == "article"
        if self._depth:
            self.shapes[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        """Note the end of the article."""
        self._depth -= tag == "article"


def render(text: str) -> str:
    """A page's HTML by CommonMark and GitHub's tables."""
    return str(MarkdownIt("commonmark").enable("table").render(text))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once."""
    target = tmp_path_factory.mktemp("site") / "site"
    build_site(target)
    return target


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """Its pages, read once."""
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def list_navigation(entries: Any) -> Iterator[str]:
    """The pages of the navigation, in order."""
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        else:
            for value in entry.values():
                yield from [value] if isinstance(value, str) else list_navigation(value)


def test_every_page_is_in_the_navigation_once() -> None:
    """A page that no menu shows is found by nobody; decisions stand in a list of their own."""
    config = tomllib.loads(CONFIG.read_text("utf-8"))
    listed = list(list_navigation(config["project"]["nav"]))
    numbered = set(DOCS.glob("decisions/[0-9]*.md"))
    there = {path.relative_to(DOCS).as_posix() for path in set(DOCS.rglob("*.md")) - numbered}
    assert sorted(listed) == sorted(there)


def test_the_list_of_decisions_is_complete_and_says_their_titles() -> None:
    """A decision that is not listed is taken again."""
    folder = DOCS / "decisions"
    text = (folder / "README.md").read_text("utf-8").replace("\n  ", " ")
    listed = re.findall(r"^- \[(\d+)\]\((.+?)\): (.+)$", text, re.MULTILINE)
    written = []
    for path in sorted(folder.glob("[0-9]*.md")):
        number, _, title = path.read_text("utf-8").partition("\n")[0].removeprefix("# ").partition(". ")
        written.append((f"{int(number):04}", path.name, title))
    assert listed == written
    assert [int(number) for number, _, _ in written] == list(range(1, len(written) + 1))


def test_every_link_and_anchor_of_the_html_leads_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    """Also those that the theme and the docstrings add, which no check of Markdown sees."""
    faults = []
    for path, page in pages.items():
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            base = site if parts.path.startswith("/") else path.parent
            target = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            where = f"{path.relative_to(site)}: {link}"
            if not target.is_file():
                faults.append(f"{where}: no such file")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                faults.append(f"{where}: no such anchor")
    assert faults == []


def test_no_page_asks_a_foreign_host(pages: dict[Path, Page]) -> None:
    """Readers behind a firewall see the whole page, and nobody else hears what they read."""
    assert {load for page in pages.values() for load in page.loads if urlsplit(load).netloc} == set()
    assert all(page.loads for page in pages.values())


def test_styles_of_the_site_ask_no_foreign_host(site: Path) -> None:
    """A style sheet can load fonts and other sheets."""
    styles = list(site.rglob("*.css"))
    assert styles
    for style in styles:
        assert not re.search(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", style.read_text("utf-8")), style


def test_scripts_of_the_site_ask_no_foreign_host(site: Path) -> None:
    """What a script loads stands in no HTML; here a browser runs them, and what it asks for is noted."""
    with serving(site) as address, running_browser() as browser:
        for place in ("index.html", "reference/api/registry.html"):
            browser.open(f"{address}/{place}")
            browser.wait_for("document.readyState === 'complete'")
        hosts = {urlsplit(request).netloc for request in browser.requests if request.startswith("http")}
        assert hosts == {urlsplit(address).netloc}
        assert browser.complaints == []


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a server of the files in ``folder``."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Without a line on stderr for each request."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def test_the_search_knows_every_page(site: Path, pages: dict[Path, Page]) -> None:
    """A site without a search that works is slower than grep."""
    index = json.loads((site / "search.json").read_text("utf-8"))
    found = {urlsplit(item["location"]).path or "index.html" for item in index["items"]}
    assert {path.relative_to(site).as_posix() for path in pages} - {"404.html"} <= found
    assert any("Tango" in item["text"] for item in index["items"])


def test_the_site_shows_the_lists_tables_and_code_that_github_shows(
    site: Path, pages: dict[Path, Page]
) -> None:
    """The generator reads lists by rules of its own: steps would be text, and code would be lost."""
    faults = {}
    for page in set(DOCS.rglob("*.md")) - set(API.glob("*.md")):  # docstrings stand on those
        place = page.relative_to(DOCS).with_suffix(".html")
        place = place.with_name("index.html") if page.name == "README.md" else place
        wanted = Counter(re.findall(r"<(\w+)", render(page.read_text("utf-8"))))
        shown = pages[site / place].shapes
        if differing := {tag: (shown[tag], wanted[tag]) for tag in SHAPES if shown[tag] != wanted[tag]}:
            faults[str(place)] = differing
    assert faults == {}, "elements on the site, and on GitHub"


LISTS = """\
Steps:
1. First,
   over two lines, with
   400. Not a list:

   ```sh
   make
     indented
   ```

10. tenth
    - nested

      with a paragraph
    - again
      and lazy
goes on
## Heading
- last
```
- no list
```
"""
ADAPTED = """\
Steps:

1. First,
    over two lines, with
    400\\. Not a list:

    ```sh
    make
      indented
    ```

10. tenth
    - nested

        with a paragraph
    - again
        and lazy
        goes on

## Heading

- last

```
- no list
```
"""


def test_lists_are_rewritten_for_the_generator() -> None:
    """The rules in one picture: a blank line around a list, four columns for what belongs to an item."""
    assert adapt_lists(LISTS) == ADAPTED
    assert adapt_lists(ADAPTED) == ADAPTED


@pytest.mark.parametrize("page", list_pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_with_rewritten_lists_is_the_same_page(page: Path) -> None:
    """The copy that is built may differ in blanks only."""
    text = page.read_text("utf-8")
    assert shorten(render(adapt_lists(text))) == shorten(render(text))


def shorten(html: str) -> str:
    """HTML without blanks and paragraphs, which is how loose lists differ from tight ones."""
    return re.sub(r"\s+|</?p>", "", html)


def list_modules() -> list[tuple[str, list[str]]]:
    """The modules of the API pages, with their public names."""
    found = [match for page in sorted(API.glob("*.md")) for match in MODULE.finditer(page.read_text("utf-8"))]
    return [(match["module"], list_names(match)) for match in found]


def test_the_public_names_are_there_and_say_what_they_do() -> None:
    """A name of the reference that the code does not have, or that nobody described, is no promise."""
    modules = list_modules()
    assert {name.split(".")[1] for name, _ in modules} == {
        "registry",
        "training",
        "exporter",
        "inference",
        "benchmarks",
    }
    for module, names in modules:
        loaded = importlib.import_module(module)
        assert inspect.getdoc(loaded)
        assert len(names) == len(set(names))
        for name in names:
            value = getattr(loaded, name)
            assert not name.startswith("_")
            if inspect.isclass(value) or inspect.isfunction(value):
                assert value.__doc__, f"{module}.{name}"
        if exported := getattr(loaded, "__all__", None):
            assert sorted(names) == sorted(exported)


def test_every_public_name_stands_on_its_page_of_the_site(site: Path, pages: dict[Path, Page]) -> None:
    """The docstrings are the reference; without them the page is a list of names."""
    folder = site / API.relative_to(DOCS)
    anchors = set().union(*(page.anchors for path, page in pages.items() if path.is_relative_to(folder)))
    names = {f"{module}.{name}" for module, names in list_modules() for name in names}
    assert names - anchors == set()


@pytest.mark.parametrize("page", sorted(API.glob("[!i]*.md")), ids=lambda page: page.stem)
def test_the_example_of_an_api_page_runs(page: Path, tmp_path: Path) -> None:
    """It is what readers copy first."""
    store = open_store(tmp_path / "var" / "registry")
    point_alias(store, "forest_cover", "candidate", publish_numeric(store, "forest_cover"))
    examples = [block.code for block in list_blocks(page.read_text("utf-8")) if block.language == "python"]
    assert len(examples) == 1
    done = subprocess.run(
        [sys.executable, "-c", examples[0]], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert (done.returncode, bool(done.stdout)) == (0, True), done.stderr


def test_a_broken_link_ends_the_build(tmp_path: Path) -> None:
    """A check that cannot fail checks nothing; the message says where."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / CONFIG.name).write_text(
        re.sub(r"nav = \[.*?^\]\n", "", CONFIG.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    )
    (docs / "index.md").write_text("# Front\n\n[gone](gone.md), [no heading](index.md#gone)\n")
    with pytest.raises(SiteError) as caught:
        build_site(tmp_path / "site", docs)
    assert str(caught.value).splitlines() == [
        "index.md:3:8: page does not exist",
        "index.md:3:40: anchor does not exist",
    ]
    assert not (tmp_path / "site").exists()


def test_pages_link_within_the_repository_only_to_what_git_keeps() -> None:
    """What lies under var/ or .venv/ is on one machine only."""
    for page in DOCS.rglob("*.md"):
        for link in list_links(page.read_text("utf-8")):
            if "://" not in link and not link.startswith("#"):
                place = (page.parent / link.partition("#")[0]).resolve().relative_to(ROOT)
                assert place.parts[:1] not in {("var",), (".venv",)}, f"{page}: {link}"
