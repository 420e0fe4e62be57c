"""The site of the docs: `make docs`.

    python -m tests.support.site [FOLDER]     # var/site by default

The pages of docs/ are plain Markdown that GitHub shows as they are; this makes a site of the same files. They
are copied first, with what they link to outside of docs/: Markdown becomes pages below `repository/`, other
files are copied as text, a folder becomes a list of its files. On the API pages the line of a module's names
becomes their docstrings. Every warning of the generator ends the build.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.dialect import adapt_lists
from tests.support.markdown import ROOT, replace_links

DOCS = ROOT / "docs"
CONFIG = DOCS / "zensical.toml"
API = DOCS / "reference" / "api"
# What links out of docs/ lead to, in the site.
REPOSITORY = Path("repository")
# A module on an API page: its heading, prose, and the line of its public names.
MODULE = re.compile(
    r"^## `(?P<module>timberline\.[\w.]+)`\n(?P<prose>(?:(?!#).*\n)*?)Names: (?P<names>(?:.|\n(?!\n))+)\.\n",
    re.MULTILINE,
)
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


class SiteError(Exception):
    """The site cannot be built; the message is the generator's."""


def build_site(target: Path, docs: Path = DOCS) -> None:
    """Build the site of the pages in ``docs`` into the folder ``target``, in the place of what is there.

    Raises:
        SiteError: a link or anchor leads nowhere, or the generator has another warning.
    """
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder)
        Stage(docs, stage / "docs").fill()
        shutil.copyfile(docs / CONFIG.name, stage / CONFIG.name)
        (stage / "src").symlink_to(ROOT / "src")  # read, not imported, for docstrings
        done = subprocess.run(
            [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", stage / CONFIG.name],
            cwd=stage,
            check=False,
            capture_output=True,
            text=True,
        )
        output = _ESCAPES.sub("", done.stdout + done.stderr)
        if done.returncode or "Warning" in output:
            raise SiteError("\n".join(_read_warnings(output)) or output)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(stage / "site", target)


class Stage:
    """The pages as the generator reads them, below ``target``: links out of ``docs`` lead to copies."""

    def __init__(self, docs: Path, target: Path) -> None:
        self._docs = docs
        self._target = target
        self._outside: dict[Path, Path] = {}  # of the repository, to where it lies below the target

    def fill(self) -> None:
        """Copy everything that belongs to the site."""
        shutil.copytree(self._docs, self._target, ignore=shutil.ignore_patterns(CONFIG.name))
        for page in sorted(self._docs.rglob("*.md")):
            self._write_page(page, page.relative_to(self._docs))
        done: set[Path] = set()
        while left := self._outside.keys() - done:  # a page that is copied may lead to others
            for source in sorted(left):
                self._copy(source, self._outside[source])
            done |= left

    def _copy(self, source: Path, place: Path) -> None:
        (self._target / place).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            (self._target / place).write_text(_list_folder(source), "utf-8")
        elif source.suffix == ".md":
            self._write_page(source, place)
        else:
            shutil.copyfile(source, self._target / place)

    def _write_page(self, source: Path, place: Path) -> None:
        text = replace_links(source.read_text("utf-8"), lambda link: self._lead(link, source, place))
        (self._target / place).write_text(MODULE.sub(_write_directive, adapt_lists(text)), "utf-8")

    def _lead(self, link: str, source: Path, place: Path) -> str:
        """The link as it has to be in the copy of ``source`` at ``place``."""
        name, mark, anchor = link.partition("#")
        if not name or re.match(r"[a-z][a-z+.-]*:", name):
            return link
        wanted = (source.parent / name).resolve()
        if wanted.is_dir() and (wanted / "README.md").exists():
            wanted /= "README.md"
        found = self._place(wanted)
        return Path(os.path.relpath(found, place.parent)).as_posix() + mark + anchor if found else link

    def _place(self, wanted: Path) -> Path | None:
        """Where a file of the repository lies in the copy; None for what is not there."""
        if wanted.is_relative_to(self._docs):
            return wanted.relative_to(self._docs)
        if not (wanted.is_relative_to(ROOT) and wanted.exists()):
            return None
        place = REPOSITORY / wanted.relative_to(ROOT)
        if wanted.is_dir():
            place /= "index.md"
        elif wanted.suffix != ".md":
            place = place.with_name(place.name + ".txt")  # shown by every browser
        return self._outside.setdefault(wanted, place)


def _read_warnings(output: str) -> list[str]:
    """The generator's warnings, a line each: place and what is wrong."""
    found = re.findall(r"Warning: (.+)\n.*\[ (.+?) \]", output)
    return [f"{place}: {what}" for what, place in found]


def _list_folder(folder: Path) -> str:
    """A page that says what is in a folder."""
    names = sorted(path.name for path in folder.iterdir() if path.name[0] not in "._")
    items = "".join(f"- `{name}`\n" for name in names)
    return f"# `{folder.relative_to(ROOT).as_posix()}`\n\nIn the repository:\n\n{items}"


def list_names(found: re.Match[str]) -> list[str]:
    """The public names of one module of an API page."""
    return re.findall(r"`(\w+)`", found["names"])


def _write_directive(found: re.Match[str]) -> str:
    """Names as their docstrings: what mkdocstrings reads."""
    module, members = found["module"], ", ".join(list_names(found))
    options = f"    options:\n      members: [{members}]\n"
    return f"## `{module}`\n{found['prose']}\n::: {module}\n{options}"


def main() -> None:
    """Build the site and say where it is."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "var" / "site"
    try:
        build_site(target)
    except SiteError as error:
        sys.exit(str(error))
    print(f"{target}/index.html; with search: python3 -m http.server --bind 127.0.0.1 -d {target}")


if __name__ == "__main__":
    main()
