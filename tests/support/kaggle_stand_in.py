"""A stand-in for Kaggle on loopback, for the real client: the two download calls and the storage behind.

The client's environment TEST talks to http://localhost:7777. Tests run side by side, so that
port is not taken; the stand-in is the client's HTTP proxy instead, on a free port.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from io import BytesIO

from tests.support.http_files import FileServer, Resource, serve_files

COMPETITION_CALL = "/api/v1/competitions.CompetitionApiService/DownloadDataFiles"
DATASET_CALL = "/api/v1/datasets.DatasetApiService/DownloadDataset"
STORAGE_HOST = "storage.example"
STORAGE_PATH = "/bucket/archive.zip"
# As in the real redirect, the right to read is in the query.
SIGNATURE = "X-Goog-Signature=51617a7572"


class KaggleStandIn:
    """``files.seen`` are the requests; ``environment`` is what the client needs to come here."""

    def __init__(self, files: FileServer) -> None:
        self.files = files
        self.environment = {
            "KAGGLE_API_ENVIRONMENT": "TEST",
            "http_proxy": files.url,
            "HTTP_PROXY": files.url,
            "no_proxy": "",
            "NO_PROXY": "",
        }

    def hold_archive(
        self, archive: bytes, call: str = COMPETITION_CALL, path: str = STORAGE_PATH
    ) -> Resource:
        """Answer ``call`` as Kaggle does: with a redirect to a signed URL of the storage."""
        location = f"http://{STORAGE_HOST}{path}?{SIGNATURE}"
        self.files.resources[call] = Resource(status=302, location=location, etag=None)
        stored = Resource(archive, content_type="application/zip")
        self.files.resources[path] = stored
        return stored

    def refuse(self, status: int, message: str, call: str = COMPETITION_CALL) -> None:
        """Answer ``call`` with Kaggle's form of an error."""
        body = json.dumps({"code": status, "message": message}).encode()
        self.files.resources[call] = Resource(body, status, "application/json", etag=None)


@contextlib.contextmanager
def serve_kaggle() -> Iterator[KaggleStandIn]:
    """A stand-in that holds nothing yet."""
    with serve_files() as files:
        yield KaggleStandIn(files)


def make_zip(entries: Mapping[str, bytes]) -> bytes:
    """A zip of these files, compressed."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in entries.items():
            archive.writestr(name, body)
    return buffer.getvalue()
