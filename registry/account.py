"""Who asks a bucket of Amazon's protocol, and where: the usual chain of environment, files and the machine.

The first that has a key wins, as with Amazon's own tools: ``AWS_ACCESS_KEY_ID`` and
``AWS_SECRET_ACCESS_KEY``; a web identity (a pod's service account); the profile in ``~/.aws/credentials`` and
``~/.aws/config``; a container's account; that of the virtual machine. The files are read here, which obstore
does not; those of the machine and of the web identity are obstore's. What takes another program or a browser
(SSO, another role, a process) is refused with the command that exports it.

Source: "Standardized credential providers" of the AWS SDKs and Tools Reference Guide, and botocore 1.44.
"""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from timberline.registry.errors import ConfigError

HINT_ACCOUNT = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL "
    "where they apply), or AWS_PROFILE, of an account that may use it; AWS_SKIP_SIGNATURE=true for a public "
    "bucket."
)

_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_WEB_IDENTITY = "AWS_WEB_IDENTITY_TOKEN_FILE"
# ECS has the first, EKS both of the others; obstore follows a whole URI with a file alone.
_ECS = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
_EKS = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_METADATA_SERVICES = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_METADATA_ENDPOINT")
_METADATA_SERVICE = "http://169.254.169.254"
# A virtual machine's own service is one hop away; everywhere else nobody answers. botocore waits as long.
_METADATA_WAIT_S = 1.0
# What a profile may have in the place of a key.
_ELSEWHERE = ("sso_session", "sso_start_url", "role_arn", "credential_process", "login_session")
# Other programs put new keys into the files before the old ones end, which is after an hour or more.
_REREAD = timedelta(minutes=5)

Settings = dict[str, str]


@dataclass(frozen=True)
class Keys:
    """What requests are signed with; its representation has none of it."""

    access_key_id: str
    secret_access_key: str
    token: str | None

    def __repr__(self) -> str:
        return "Keys(…)"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no message may have."""
        return tuple(filter(None, (self.access_key_id, self.secret_access_key, self.token)))


@dataclass(frozen=True)
class Account:
    """How to ask.

    - ``keys``: None where obstore has to find them, or the bucket is public;
    - ``machine``: where a virtual machine's account is asked for, if only that is left; "" if that is
      switched off, None if there is another way;
    - ``endpoint``: "" for Amazon's own;
    - ``ca_file``: certificates that are trusted besides the system's; "" for none.
    """

    environment: Mapping[str, str]
    keys: Keys | None
    machine: str | None
    region: str
    endpoint: str
    ca_file: str

    def __repr__(self) -> str:
        return f"Account(endpoint={self.endpoint!r}, region={self.region!r})"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no message may have."""
        return self.keys.secrets if self.keys else ()

    @property
    def is_plain_http(self) -> bool:
        """Whether the server is asked without encryption."""
        return self.endpoint.startswith("http://")

    def client_settings(self) -> dict[str, Any]:
        """For obstore's S3 client. It reads the environment too, and there an empty variable is a value."""
        settings: dict[str, Any] = {}
        if self.region:
            settings["region"] = self.region
        if self.endpoint:
            settings["aws_endpoint_url_s3"] = self.endpoint
        elif any(name in self.environment for name in _ENDPOINTS):
            settings["aws_endpoint_url_s3"] = f"https://s3.{self.region or 'us-east-1'}.amazonaws.com"
        if self.machine:
            settings["metadata_endpoint"] = self.machine
        if self.keys:
            settings["credential_provider"] = self._provide
        else:
            for name in _KEYS:
                if os.environ.get(name) == "":  # obstore would sign with it
                    del os.environ[name]
        return settings

    def _provide(self) -> Any:
        """What obstore signs with until ``expires_at``; those of a file may be others by then."""
        keys = self.keys
        with contextlib.suppress(ConfigError, OSError):  # being written: the old ones may still do
            keys = find_keys(self.environment, read_profile(self.environment)) or keys
        assert keys
        return {
            "access_key_id": keys.access_key_id,
            "secret_access_key": keys.secret_access_key,
            "token": keys.token,
            "expires_at": datetime.now(UTC) + _REREAD,
        }

    def may_be_there(self) -> bool:
        """Whether there is an account, as far as a second tells; obstore waits longer for a machine's."""
        return self.machine is None or (self.machine != "" and _answers(self.machine))


def find_account(environment: Mapping[str, str]) -> Account:
    """The account that ``environment`` and the files it leads to name; nobody is asked.

    Raises:
        ConfigError: a variable or a file is wrong, or needs another program; no value is quoted.
    """
    environment = dict(environment)  # as it is now: keys are looked for again later
    profile = read_profile(environment)
    keys = None if _is_on(environment, "AWS_SKIP_SIGNATURE") else find_keys(environment, profile)
    is_ignored = _is_on(environment, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")
    endpoint = _first(environment, _ENDPOINTS) or ("" if is_ignored else profile.get("endpoint_url", ""))
    region = _first(environment, ("AWS_REGION", "AWS_DEFAULT_REGION")) or profile.get("region", "")
    if region and not re.fullmatch(r"[A-Za-z0-9-]+", region):
        raise ConfigError(f"found {region[:80]!r}, expected the name of a region", where="AWS_REGION")
    return Account(
        environment=environment,
        keys=keys,
        machine=None if keys or _has_other_way(environment) else _find_machine(environment),
        region=region,
        endpoint=_check_endpoint(endpoint),
        ca_file=_first(environment, ("AWS_CA_BUNDLE",)) or profile.get("ca_bundle", ""),
    )


def find_keys(environment: Mapping[str, str], profile: Settings) -> Keys | None:
    """The keys of the environment, else of the profile; None if the machine has to know them.

    Raises:
        ConfigError: half of them is there, or they are where only another program finds them.
    """
    if keys := _pair(*(_first(environment, (name,)) for name in _KEYS), where="environment"):
        return keys
    if _first(environment, (_WEB_IDENTITY,)) and not _named_profile(environment):
        return None
    where = f"profile {_profile_name(environment)}"
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    if keys := _pair(*(profile.get(name, "") for name in names), where=where):
        return keys
    if found := [name for name in _ELSEWHERE if profile.get(name)]:
        raise ConfigError(
            f"has {found[0]}, which is not followed here",
            where=where,
            hint='Export its keys first: eval "$(aws configure export-credentials --profile '
            f'{_profile_name(environment)} --format env)".',
        )
    return None


def _pair(key: str, secret: str, token: str, *, where: str) -> Keys | None:
    if bool(key) != bool(secret):
        missing = "AWS_SECRET_ACCESS_KEY" if key else "AWS_ACCESS_KEY_ID"
        raise ConfigError(f"has no {missing}, and the other half", where=where, hint="Set both.")
    if not all(each.isprintable() for each in (key, secret, token)):
        raise ConfigError("its keys have characters that no key has", where=where)
    return Keys(key, secret, token or None) if key else None


def read_profile(environment: Mapping[str, str]) -> Settings:
    """The settings of the profile in both files; ``credentials`` wins. Empty if there is none.

    Raises:
        ConfigError: the profile is named and is nowhere; or a file is not readable.
    """
    name = _profile_name(environment)
    config = _read_file(environment, "AWS_CONFIG_FILE", "config")
    credentials = _read_file(environment, "AWS_SHARED_CREDENTIALS_FILE", "credentials")
    sections = [config.get(f"profile {name}"), credentials.get(name)]
    if name == "default":
        sections.insert(1, config.get(name))
    found = [section for section in sections if section is not None]
    if not found and _named_profile(environment):
        raise ConfigError(f"there is no profile {name[:80]!r}", where="AWS_PROFILE", hint=HINT_ACCOUNT)
    return {key: value.strip() for section in found for key, value in section.items() if value}


def _read_file(environment: Mapping[str, str], variable: str, name: str) -> dict[str, Settings]:
    """The sections of one of the files; none if it is not there."""
    chosen = environment.get(variable)
    home = environment.get("HOME")
    if not chosen and not home:
        return {}
    path = Path(chosen) if chosen else Path(str(home), ".aws", name)
    # The parser's errors quote the line, which may hold a key: they are not shown.
    problem = "is no file of AWS settings"
    try:
        text = _expand(path, home).read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        if not chosen and isinstance(error, PermissionError):  # another user's home
            return {}
        problem = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else problem
        raise ConfigError(problem, where=str(path)) from None
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), default_section="\0")
    with contextlib.suppress(configparser.Error):
        parser.read_string(text)
        return {section.strip(): dict(parser.items(section)) for section in parser.sections()}
    raise ConfigError(problem, where=str(path))


def _expand(path: Path, home: str | None) -> Path:
    return Path(home, *path.parts[1:]) if home and path.parts[:1] == ("~",) else path


def _named_profile(environment: Mapping[str, str]) -> str:
    return _first(environment, ("AWS_PROFILE", "AWS_DEFAULT_PROFILE"))


def _profile_name(environment: Mapping[str, str]) -> str:
    return _named_profile(environment) or "default"


def _has_other_way(environment: Mapping[str, str]) -> bool:
    """Whether obstore finds keys without a virtual machine's service, or needs none."""
    is_public = _is_on(environment, "AWS_SKIP_SIGNATURE")
    is_in_pod = all(_first(environment, (name,)) for name in _EKS)
    return is_public or is_in_pod or bool(_first(environment, (_WEB_IDENTITY, _ECS)))


def _find_machine(environment: Mapping[str, str]) -> str:
    if _is_on(environment, "AWS_EC2_METADATA_DISABLED"):
        return ""
    return _first(environment, _METADATA_SERVICES) or _METADATA_SERVICE


def _answers(url: str) -> bool:
    """Whether anything accepts connections at ``url``."""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), _METADATA_WAIT_S):
            return True
    except OSError:
        return False


def _check_endpoint(text: str) -> str:
    """An endpoint that obstore can use: it ends the process with a wrong one.

    Raises:
        ConfigError: it is none. It is not quoted: it may have a password.
    """
    expected = "expected http://host:port or https://host"
    if not text:
        return ""
    try:
        parts = urlsplit(text)
        is_valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid or parts.query or parts.fragment or re.search(r"[\s\\]", text):
        raise ConfigError(f"is no address, {expected}", where="AWS_ENDPOINT_URL")
    if "@" in parts.netloc:
        raise ConfigError(f"has a user, {expected}", where="AWS_ENDPOINT_URL", hint=HINT_ACCOUNT)
    return text.rstrip("/")


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> str:
    """The first of these variables that has a value; spaces and ends of lines around it are none of it."""
    return next(filter(None, (environment.get(name, "").strip() for name in names)), "")


def _is_on(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").strip().lower() in {"1", "true", "yes", "on"}
