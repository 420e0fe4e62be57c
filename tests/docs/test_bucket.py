"""docs/how-to/bucket.md, followed on a real S3 server; the registry that is copied is the gate pages'.

``aws`` is the stand-in below: the two commands of the page, through the client that the program has too.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.support.gate_pages import prepare_checkout
from tests.support.markdown import ROOT, list_blocks
from tests.support.s3_server import serve_s3
from tests.support.walkthrough import Walkthrough

PAGE = ROOT / "docs" / "how-to" / "bucket.md"
# One short restart decides: the version of this page has limits that any latency keeps.
ONE_RESTART = {"TIMBERLINE_DUET_LOOKS": "[1]", "TIMBERLINE_DUET_WINDOW_S": "0.5"}
AWS = f"""#!{sys.executable}
import fnmatch, pathlib, sys, urllib.request, os
import obstore
from timberline.registry.bucket import open_client

words = sys.argv[1:]
assert words[0] == "s3", words
if words[1] == "mb":
    (place,) = words[2:]
    assert place.startswith("s3://") and "/" not in place[5:], place
    obstore.put(open_client(place), "made", b"")  # this server makes a bucket at its first write
    obstore.delete(open_client(place), "made")
    sys.exit()
assert words[1] == "sync" and words[4] == "--exclude" and len(words) == 6, words
source, target, pattern = words[2], words[3], words[5]
if source.startswith("s3://"):
    client = open_client(source)
    for page in obstore.list(client):
        for each in page:
            if not fnmatch.fnmatch(each["path"], pattern):
                path = pathlib.Path(target, each["path"])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(bytes(obstore.get(client, each["path"]).bytes()))
else:
    client = open_client(target)
    for path in sorted(pathlib.Path(source).rglob("*")):
        key = path.relative_to(source).as_posix()
        if path.is_file() and not fnmatch.fnmatch(key, pattern):
            obstore.put(client, key, path.read_bytes())
"""


def test_every_command_of_the_page_does_what_it_says(tmp_path: Path) -> None:
    """A registry is moved once, by commands from a page: what they lose is lost."""
    (folder := tmp_path / "s3").mkdir()
    with (
        serve_s3(folder, secret_key="page") as server,
        Walkthrough(tmp_path, {**ONE_RESTART, **server.environment}) as reader,
    ):
        reader.provide("aws", AWS)
        prepare_checkout(reader.folder)
        shutil.rmtree(reader.folder / "var" / "registry" / "electricity")  # is damaged, for another page
        count = reader.follow(PAGE)
    assert count == sum(block.language == "sh" for block in list_blocks(PAGE.read_text("utf-8"))) > 8
