"""Files of a Kaggle competition or data set, through Kaggle's official client library.

The library under the ``kaggle`` command is used and not the command's own class: that one signs in
when it is imported, ends the process without credentials and prints to stdout. What it lacks is
added here: timeouts, resuming, and errors that say what to do and carry no secret.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import requests
import requests.adapters
from kagglesdk import KaggleClient
from kagglesdk.competitions.types.competition_api_service import ApiDownloadDataFilesRequest
from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

from timberline.registry.runtime.documents import decode_json
from timberline.training.config import KaggleSource
from timberline.training.errors import SourceError
from timberline.training.sources.archive import extract_files, is_safe_name
from timberline.training.sources.download import FileChangedError, LostConnectionError, Reply, download
from timberline.training.sources.http_fields import (
    BUSY_STATUSES,
    RANGE_NOT_SATISFIABLE,
    read_reply,
    resume_headers,
)
from timberline.training.sources.kaggle_credentials import KaggleCredentials, find_credentials
from timberline.training.sources.protocol import Pause
from timberline.training.sources.scrub import scrub

# A chunk that breaks off is lost whole with this client, so a chunk is small.
_CHUNK_BYTES = 1 << 16
_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S = 20.0, 120.0


class KaggleFetcher:
    """Fetch ``source.files`` out of the archive that Kaggle makes of a competition or data set."""

    def __init__(self, source: KaggleSource, environment: Mapping[str, str], pause: Pause) -> None:
        self._source = source
        self._environment = environment
        self._pause = pause
        kind = "competition" if source.competition else "data set"
        self.label = f"Kaggle {kind} {source.competition or source.dataset}"

    def inputs(self) -> dict[str, str]:
        """Nothing: what is fetched once stays; Kaggle names no digest."""
        return {}

    def fetch(self, folder: Path, scratch: Path) -> None:
        """Download the archive, then write each wanted file under its own name."""
        for file in self._source.files:
            if not is_safe_name(file):
                raise SourceError(
                    f"file {file!r} leads out of its folder", where="source.files in model.toml"
                )
        credentials = find_credentials(self._environment)
        archive = scratch / "archive.zip"
        download(partial(self._open, credentials), archive, label=self.label, pause=self._pause)
        limit = self._source.max_unpacked_bytes
        extract_files(archive, self._source.files, folder, max_bytes=limit, scratch=scratch, where=self.label)

    @contextlib.contextmanager
    def _open(self, credentials: KaggleCredentials, offset: int, validator: str | None) -> Iterator[Reply]:
        # urllib3 logs the signed URL of the storage that Kaggle redirects to.
        logging.getLogger("urllib3").setLevel(logging.INFO)
        client = KaggleClient(
            username=credentials.username, password=credentials.key, api_token=credentials.token
        )
        with client:
            _prepare_session(client, resume_headers(offset, validator))
            with contextlib.closing(self._ask(client, credentials)) as response:
                chunks = _chunks(response)
                yield read_reply(response.status_code, response.headers, offset, chunks, self.label)

    def _ask(self, client: KaggleClient, credentials: KaggleCredentials) -> Any:
        """The response, with its body still to be read; every refusal is an error of ours."""
        try:
            return self._request(client)
        except requests.HTTPError as error:
            refusal = self._refusal(error, credentials)
        except (requests.RequestException, RecursionError) as error:  # the second: its JSON is nested deeply
            # Only the kind of failure: its text carries the signed URL.
            refusal = LostConnectionError(type(error).__name__)
        # Raised here and not above, so that the client's error is not even attached as context.
        raise refusal

    def _request(self, client: Any) -> Any:
        if self._source.competition:
            wanted = ApiDownloadDataFilesRequest()
            wanted.competition_name = self._source.competition
            return client.competitions.competition_api_client.download_data_files(wanted)
        owner, slash, name = (self._source.dataset or "").partition("/")
        if not (owner and slash and name):
            raise SourceError(
                f"found {self._source.dataset!r}, expected owner/name", where="source.dataset in model.toml"
            )
        request = ApiDownloadDatasetRequest()
        request.owner_slug, request.dataset_slug = owner, name
        return client.datasets.dataset_api_client.download_dataset(request)

    def _refusal(self, error: Any, credentials: KaggleCredentials) -> Exception:
        """Kaggle's answer as an error that says what to do; a busy server is asked again."""
        response = error.response
        status = response.status_code
        if response.history and status in (401, 403):
            return LostConnectionError(f"the storage behind Kaggle refused its own link ({status})")
        if status == RANGE_NOT_SATISFIABLE:
            return FileChangedError("the file is shorter now")
        if status in BUSY_STATUSES:
            return LostConnectionError(f"Kaggle is busy ({status})")
        said = scrub(_message(response), credentials.secrets)
        words = f"Kaggle answered {status}" + (f": {said}" if said else "")
        return SourceError(words, where=self.label, hint=self._hint(status, credentials))

    def _hint(self, status: int, credentials: KaggleCredentials) -> str:
        if status == 401:
            return f"The credentials from {credentials.origin} are not valid (any more); make new ones."
        if status == 403 and self._source.competition:
            page = f"https://www.kaggle.com/c/{self._source.competition}/rules"
            return f"Join the competition and accept its rules at {page}; check the spelling of its name too."
        if status == 403:
            return "The data set is private, or its licence is not accepted yet, or its name is misspelt."
        if status == 404:
            return "Check the name in [source] of model.toml: it is the last part of the page's address."
        return "Try again later."


class _PatientAdapter(requests.adapters.HTTPAdapter):
    """Waits only so long: the client itself sets no timeout, and would wait for ever."""

    def send(self, request: Any, *args: Any, **options: Any) -> Any:
        options["timeout"] = options.get("timeout") or (_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S)
        return super().send(request, *args, **options)


def _prepare_session(client: Any, headers: Mapping[str, str]) -> None:
    """Add to the client's session what its methods do not offer: headers, and a limit to waiting."""
    session = client.http_client()._session
    session.headers.update(headers)
    for scheme in ("https://", "http://"):
        session.mount(scheme, _PatientAdapter())


def _chunks(response: Any) -> Iterator[bytes]:
    try:
        yield from response.iter_content(_CHUNK_BYTES)
    except requests.RequestException as error:
        raise LostConnectionError(f"the body broke off ({type(error).__name__})") from None


class _Refusal(msgspec.Struct):
    message: str = ""


def _message(response: Any) -> str:
    try:
        return decode_json(response.content, _Refusal).message
    except (msgspec.DecodeError, requests.RequestException):
        return ""
