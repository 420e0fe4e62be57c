"""Whose Kaggle account: the places the official client looks in, in its order.

Read here and not by the client because the client ends the process when it finds none, and
because every secret must be known to be kept out of messages.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from timberline.registry.runtime.documents import UTF_8, decode_json
from timberline.registry.runtime.logs import log_event
from timberline.training.errors import SourceError

_logger = logging.getLogger("training.data.fetch")
_MARK = "\ufeff"  # the byte order mark of a file that somebody's shell read into the variable
_HINT = (
    "Make a token at https://www.kaggle.com/settings/api and put it into KAGGLE_API_TOKEN or "
    "~/.kaggle/access_token; or set KAGGLE_USERNAME and KAGGLE_KEY; or save kaggle.json in ~/.kaggle."
)


@dataclass(frozen=True)
class KaggleCredentials:
    """Either ``token`` or ``username`` and ``key``; ``origin`` says where they were found."""

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
    folders = _folders(environment)
    found = (
        _token_from_environment(environment)
        or _token_from_files(folders)
        or _key_from_environment(environment)
        or _key_from_files(folders)
    )
    if found is None:
        raise SourceError("no credentials found", where="Kaggle", hint=_HINT)
    return found


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
    """Where the system says that it is; None for a user whom it does not know, as in many a container."""
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


def _token_from_environment(environment: Mapping[str, str]) -> KaggleCredentials | None:
    value = environment.get("KAGGLE_API_TOKEN", "").strip().removeprefix(_MARK)
    if value and _is_file(Path(value)):  # the official client takes a path here too
        value = _read_token(Path(value))
    return KaggleCredentials("KAGGLE_API_TOKEN", token=value) if value else None


def _token_from_files(folders: tuple[Path, ...]) -> KaggleCredentials | None:
    for path in (folder / name for folder in folders for name in ("access_token", "access_token.txt")):
        if _is_file(path) and (token := _read_token(path)):
            _warn_if_readable_by_others(path)
            return KaggleCredentials(str(path), token=token)
    return None


def _read_token(path: Path) -> str:
    try:
        return path.read_text(UTF_8).strip()
    except UnicodeDecodeError:
        # Not the decoder's own words: they quote what stands in the file.
        raise SourceError("is not a token: it is not UTF-8", where=str(path), hint=_HINT) from None


def _key_from_environment(environment: Mapping[str, str]) -> KaggleCredentials | None:
    username, key = environment.get("KAGGLE_USERNAME"), environment.get("KAGGLE_KEY")
    if username and key:
        return KaggleCredentials("KAGGLE_USERNAME and KAGGLE_KEY", username=username, key=key)
    return None


def _key_from_files(folders: tuple[Path, ...]) -> KaggleCredentials | None:
    for path in (folder / "kaggle.json" for folder in folders):
        if _is_file(path):
            _warn_if_readable_by_others(path)
            return _read_kaggle_json(path)
    return None


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
