"""Files of a Kaggle competition or data set, through Kaggle's official client library.

The library under the ``kaggle`` command is used and not the command's own class: that one signs in
when it is imported, ends the process without credentials and prints to stdout. What it lacks is
added here: timeouts, resuming, and errors that say what to do and carry no secret. The credentials
are looked for where the official client looks, in its order, because that client ends the process
when it finds none and because every secret must be known to be kept out of messages.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import requests
import requests.adapters
from kagglesdk import KaggleClient
from kagglesdk.competitions.types.competition_api_service import ApiDownloadDataFilesRequest
from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

from timberline.registry.runtime.documents import UTF_8, decode_json
from timberline.registry.runtime.logs import log_event
from timberline.training.config import KaggleSource
from timberline.training.errors import SourceError
from timberline.training.sources.archive import extract_files, is_safe_name
from timberline.training.sources.download import (
    BUSY_STATUSES,
    RANGE_NOT_SATISFIABLE,
    Fetcher,
    FileChangedError,
    LostConnectionError,
    Pause,
    Reply,
    download,
    read_reply,
    resume_headers,
    scrub,
)

# A chunk that breaks off is lost whole with this client, so a chunk is small.
_CHUNK_BYTES = 1 << 16
_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S = 20.0, 120.0
_logger = logging.getLogger("training.data.fetch")
_MARK = "\ufeff"  # the byte order mark of a file that somebody's shell read into the variable
_HINT = (
    "Make a token at https://www.kaggle.com/settings/api and put it into KAGGLE_API_TOKEN or "
    "~/.kaggle/access_token; or set KAGGLE_USERNAME and KAGGLE_KEY; or save kaggle.json in ~/.kaggle."
)


class KaggleFetcher(Fetcher):
    """Fetch ``source.files`` out of the archive that Kaggle makes of a competition or data set."""

    def __init__(self, source: KaggleSource, environment: Mapping[str, str], pause: Pause) -> None:
        self._source = source
        self._environment = environment
        self._pause = pause
        kind = "competition" if source.competition else "data set"
        self.label = f"Kaggle {kind} {source.competition or source.dataset}"

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
        """Kaggle's answer as an error with what to do; a busy server is asked again."""
        response = error.response
        status = response.status_code
        if response.history and status in (401, 403):
            return LostConnectionError(f"the storage behind Kaggle refused its own link ({status})")
        if status == RANGE_NOT_SATISFIABLE:
            return FileChangedError("the file is shorter now")
        if status in BUSY_STATUSES:
            return LostConnectionError(f"Kaggle is busy ({status})")
        message = scrub(_message(response), credentials.secrets)
        words = f"Kaggle answered {status}" + (f": {message}" if message else "")
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
    """Sets timeouts: the client has none, and would wait for ever."""

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


@dataclass(frozen=True)
class KaggleCredentials:
    """Either ``token`` or ``username`` and ``key``; ``origin`` is where they were found."""

    origin: str
    token: str | None = field(default=None, repr=False)
    username: str | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be seen anywhere."""
        pair = f"{self.username}:{self.key}" if self.key else ""  # as basic authorization encodes it
        return tuple(filter(None, (self.token, self.key, pair)))


def find_credentials(environment: Mapping[str, str]) -> KaggleCredentials:
    """The first that is there: token (environment, file), then user name and key (environment, file).

    Raises:
        SourceError: there are none, or a kaggle.json is not what Kaggle writes.
    """
    found = next(_find_all(environment), None)
    if found is None:
        raise SourceError("no credentials found", where="Kaggle", hint=_HINT)
    return found


def _find_all(environment: Mapping[str, str]) -> Iterator[KaggleCredentials]:
    token = environment.get("KAGGLE_API_TOKEN", "").strip().removeprefix(_MARK)
    if token and _is_file(Path(token)):  # the official client takes a path here too
        token = _read_token(Path(token))
    if token:
        yield KaggleCredentials("KAGGLE_API_TOKEN", token=token)
    folders = _folders(environment)
    for path in (folder / name for folder in folders for name in ("access_token", "access_token.txt")):
        if _is_file(path) and (token := _read_token(path)):
            _warn_if_readable_by_others(path)
            yield KaggleCredentials(str(path), token=token)
    username, key = environment.get("KAGGLE_USERNAME"), environment.get("KAGGLE_KEY")
    if username and key:
        yield KaggleCredentials("KAGGLE_USERNAME and KAGGLE_KEY", username=username, key=key)
    for path in (folder / "kaggle.json" for folder in folders):
        if _is_file(path):
            _warn_if_readable_by_others(path)
            yield _read_kaggle_json(path)


def _folders(environment: Mapping[str, str]) -> tuple[Path, ...]:
    home = environment.get("HOME") or _find_home()
    settings = environment.get("XDG_CONFIG_HOME") or (home and f"{home}/.config")
    named = (
        environment.get("KAGGLE_CONFIG_DIR"),
        home and f"{home}/.kaggle",
        settings and f"{settings}/kaggle",
    )
    return tuple(Path(folder) for folder in named if folder)


def _find_home() -> str | None:
    """The home folder that the system knows; None for an unknown user, as in many containers."""
    try:
        return str(Path.home())
    except RuntimeError:
        return None


def _is_file(path: Path) -> bool:
    """Whether this process may know of one: HOME may be another user's, and a long token is no path."""
    try:
        return path.is_file()
    except OSError:
        return False


def _read_token(path: Path) -> str:
    try:
        return path.read_text(UTF_8).strip()
    except UnicodeDecodeError:
        # Not the decoder's own words: they quote what stands in the file.
        raise SourceError("is not a token: it is not UTF-8", where=str(path), hint=_HINT) from None


class _KaggleJson(msgspec.Struct):
    username: str
    key: str


def _read_kaggle_json(path: Path) -> KaggleCredentials:
    try:
        read = decode_json(path.read_bytes(), _KaggleJson)
    except msgspec.DecodeError:
        # Not the parser's own words: they may quote what stands in the file.
        raise SourceError(
            'is not a JSON object with "username" and "key"',
            where=str(path),
            hint="Download it again from https://www.kaggle.com/settings/api.",
        ) from None
    return KaggleCredentials(str(path), username=read.username, key=read.key)


def _warn_if_readable_by_others(path: Path) -> None:
    if path.stat().st_mode & 0o077:
        log_event(_logger, f"readable by other users; run chmod 600 {path}", logging.WARNING)
