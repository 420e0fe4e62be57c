"""Who asks a bucket: the order of the chain, what is refused, and that nothing of it is told."""

from __future__ import annotations

import datetime
import json
import os
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from timberline.registry.account import Keys, find_account
from timberline.registry.bucket import BucketStore, open_client
from timberline.registry.errors import ConfigError
from timberline.registry.refusals import RefusedError

SECRET = "s3cr3t/w1th+odd%signs="
TOKEN = "t0k3n-of-a-session"
KEY = "AKIDOFTESTS"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN}

CREDENTIALS = f"""\
# written by hand
[default]
aws_access_key_id = of-default
aws_secret_access_key = {SECRET}

[team]
aws_access_key_id = of-team
aws_secret_access_key = {SECRET}
aws_session_token = {TOKEN}
"""
CONFIG = """\
[default]
region = eu-central-1
s3 =
    addressing_style = path

[profile team]
region = eu-west-3
endpoint_url = https://minio.example:9000

[profile only-config]
aws_access_key_id = of-config
aws_secret_access_key = another

[profile browser]
sso_session = company
region = eu-north-1

[profile other-role]
role_arn = arn:aws:iam::1:role/x
source_profile = default

[profile program]
credential_process = /bin/echo secret
"""


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of a person with both files."""
    (folder := tmp_path / ".aws").mkdir()
    (folder / "credentials").write_text(CREDENTIALS)
    (folder / "config").write_text(CONFIG)
    return {"HOME": str(tmp_path)}


def find_keys(environment: dict[str, str]) -> Keys:
    """The keys that are found; there have to be some."""
    keys = find_account(environment).keys
    assert keys is not None
    return keys


def test_the_environment_comes_first(home: dict[str, str]) -> None:
    """A container's variables must not lose against what lies in its image."""
    keys = find_keys(home | ENVIRONMENT | {"AWS_PROFILE": "team"})
    assert (keys.access_key_id, keys.secret_access_key, keys.token) == (KEY, SECRET, TOKEN)


@pytest.mark.parametrize(
    ("profile", "key", "token", "region", "endpoint"),
    [
        ("", "of-default", None, "eu-central-1", ""),
        ("team", "of-team", TOKEN, "eu-west-3", "https://minio.example:9000"),
        ("only-config", "of-config", None, "", ""),
    ],
)
def test_a_profile_gives_keys_region_and_endpoint(
    home: dict[str, str], profile: str, key: str, token: str | None, region: str, endpoint: str
) -> None:
    """What `aws configure` wrote has to do here as it does for every other tool."""
    account = find_account(home | {"AWS_PROFILE": profile})
    assert account.keys is not None
    assert (account.keys.access_key_id, account.keys.token) == (key, token)
    assert (account.region, account.endpoint, account.machine) == (region, endpoint, None)


def test_variables_choose_other_files_and_win_over_their_settings(
    home: dict[str, str], tmp_path: Path
) -> None:
    """Files are mounted elsewhere in a container, and a region is set for one run."""
    (tmp_path / ".aws/credentials").rename(tmp_path / "keys")
    (tmp_path / ".aws/config").rename(tmp_path / "settings")
    chosen = {"AWS_SHARED_CREDENTIALS_FILE": "~/keys", "AWS_CONFIG_FILE": str(tmp_path / "settings")}
    set_here = {"AWS_REGION": "us-west-2", "AWS_ENDPOINT_URL": "http://127.0.0.1:8333/"}
    account = find_account(home | chosen | set_here | {"AWS_PROFILE": "team"})
    assert account.keys is not None
    assert account.keys.access_key_id == "of-team"
    assert (account.region, account.endpoint) == ("us-west-2", "http://127.0.0.1:8333")
    assert account.is_plain_http


def test_empty_variables_are_not_set(home: dict[str, str]) -> None:
    """Shells and compose files write nothing; obstore ends the process for an empty endpoint."""
    empty = dict.fromkeys([*ENVIRONMENT, "AWS_REGION", "AWS_ENDPOINT_URL", "AWS_PROFILE"], "")
    account = find_account(home | empty)
    assert account.keys is not None
    assert account.keys.access_key_id == "of-default"
    assert account.client_settings()["aws_endpoint_url_s3"] == "https://s3.eu-central-1.amazonaws.com"


def test_ends_of_lines_around_a_key_are_none_of_it() -> None:
    """`kubectl create secret --from-file` keeps the file's last one; obstore ends the process for it."""
    keys = find_keys({name: f"{value}\n" for name, value in ENVIRONMENT.items()})
    assert (keys.access_key_id, keys.secret_access_key) == (KEY, SECRET)


@pytest.mark.parametrize("profile", ["browser", "other-role", "program"])
def test_what_needs_another_program_says_how_to_export(home: dict[str, str], profile: str) -> None:
    """Half of the chain of Amazon's tools is a program of its own; one command brings it here."""
    expected = f"aws configure export-credentials --profile {profile} --format env"
    with pytest.raises(ConfigError, match=expected):
        find_account(home | {"AWS_PROFILE": profile})


def test_a_profile_that_is_nowhere_is_refused(home: dict[str, str]) -> None:
    """Else the default account would be used in its place."""
    with pytest.raises(ConfigError, match="there is no profile 'taem'"):
        find_account(home | {"AWS_PROFILE": "taem"})


@pytest.mark.parametrize("left", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_half_of_a_pair_is_refused(home: dict[str, str], left: str) -> None:
    """Else the account of the files would be used in its place."""
    with pytest.raises(ConfigError, match="Set both") as caught:
        find_account(home | {left: SECRET})
    assert SECRET not in str(caught.value)


def test_a_file_that_is_none_is_refused_without_quoting_it(home: dict[str, str], tmp_path: Path) -> None:
    """The parser's own error quotes the line, and that may be a key."""
    (tmp_path / ".aws/credentials").write_text(f"{SECRET}\n[default]\n")
    with pytest.raises(ConfigError, match="is no file of AWS settings") as caught:
        find_account(home)
    assert SECRET not in str(caught.value) + repr(caught.value.__context__)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("localhost:9000", "is no address, expected http://host:port"),
        ("minio.example", "is no address"),
        ("http://", "is no address"),
        ("http://host:port", "is no address"),
        (f"https://{KEY}:{SECRET.replace('/', '')}@minio.example", "has a user"),
    ],
)
def test_an_endpoint_that_is_none_is_refused(url: str, expected: str) -> None:
    """obstore ends the process for some of these; and one may have a password, which is not quoted."""
    with pytest.raises(ConfigError, match=expected) as caught:
        find_account(ENVIRONMENT | {"AWS_ENDPOINT_URL": url})
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "variables",
    [
        {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/x"},
        {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "/var/run/token",
        },
        {"AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/token", "AWS_ROLE_ARN": "arn:aws:iam::1:role/x"},
        {"AWS_SKIP_SIGNATURE": "true"},
    ],
)
def test_accounts_that_obstore_finds_are_left_to_it(tmp_path: Path, variables: dict[str, str]) -> None:
    """On ECS and EKS no virtual machine's service may be waited for, and none may be missed."""
    account = find_account({"HOME": str(tmp_path)} | variables)
    assert (account.keys, account.machine) == (None, None)
    assert account.may_be_there()


def test_a_pods_identity_wins_over_a_default_profile_and_not_over_a_named_one(home: dict[str, str]) -> None:
    """The order of Amazon's own tools."""
    pod = home | {"AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/token", "AWS_ROLE_ARN": "arn:aws:iam::1:role/x"}
    assert find_account(pod).keys is None
    assert find_keys(pod | {"AWS_PROFILE": "team"}).access_key_id == "of-team"


def test_without_any_account_the_hint_comes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop has no metadata service, and obstore would wait ten seconds for it.

    The store is made all the same: a service with a cache starts when its account is not there.
    """
    with socket.create_server(("127.0.0.1", 0)) as machine:
        port = machine.getsockname()[1]
        alone = {"HOME": str(tmp_path), "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{port}"}
        assert find_account(alone).may_be_there()  # on EC2 somebody listens
        assert find_account(alone).client_settings() == {"metadata_endpoint": f"http://127.0.0.1:{port}"}
        assert not find_account(alone | {"AWS_EC2_METADATA_DISABLED": "true"}).may_be_there()
    assert not find_account(alone).may_be_there()
    with pytest.raises(RefusedError, match=r"no account was found\. Set AWS_ACCESS_KEY_ID"):
        open_client("s3://bucket/prefix", alone)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in alone.items():
        monkeypatch.setenv(name, value)
    store = BucketStore("s3://bucket/prefix")
    with pytest.raises(PermissionError, match=r"s3://bucket/prefix.*no account was found"):
        store.list_keys()


def test_nothing_of_an_account_is_in_its_representation(home: dict[str, str]) -> None:
    """Representations get into logs, tracebacks and failing assertions of others."""
    account = find_account(home | ENVIRONMENT)
    client = open_client("s3://bucket", home | ENVIRONMENT)
    told = f"{account!r} {account} {account.keys!r} {client!r} {client.config}"
    assert account.secrets == (KEY, SECRET, TOKEN)
    assert not [secret for secret in account.secrets if secret in told]


def test_keys_of_a_file_are_read_again(home: dict[str, str], tmp_path: Path) -> None:
    """A service outlives a session's token, which another program renews in the file."""
    account = find_account(home | {"AWS_PROFILE": "team"})
    provide: Callable[[], Any] = account.client_settings()["credential_provider"]
    assert provide()["token"] == TOKEN
    (path := tmp_path / ".aws/credentials").write_text(CREDENTIALS.replace(TOKEN, "renewed"))
    assert provide()["token"] == "renewed"
    assert provide()["expires_at"] > datetime.datetime.now(datetime.UTC)
    path.write_text("[team]\naws_access_key_id = half")  # being written
    assert provide()["token"] == TOKEN


def test_a_list_of_certificates_that_is_not_there_is_told(tmp_path: Path) -> None:
    """A server with an authority of its own, and a volume that was not mounted."""
    missing = tmp_path / "ca.pem"
    with pytest.raises(ConfigError, match=r"AWS_CA_BUNDLE=.*ca.pem: cannot be read"):
        open_client("s3://bucket", ENVIRONMENT | {"AWS_CA_BUNDLE": str(missing)})


@pytest.mark.parametrize("url", ["gs://bucket/prefix", "az://bucket/prefix"])
def test_clients_of_other_clouds_are_made(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come with the client and are tried by no test of ours; that they are made is all that is held."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    assert open_client(url).prefix == "prefix"
    assert BucketStore(url).location == url


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3:///x", "s3://bucket//x", "s3://bucket/../x", "s3://b", f"s3://{KEY}:{TOKEN}@bucket/x"],
)
def test_a_url_without_a_bucket_is_refused(url: str) -> None:
    """What somebody writes before an @ is a password, and is not quoted."""
    with pytest.raises(ConfigError, match="expected s3://bucket/prefix") as caught:
        BucketStore(url)
    assert TOKEN not in str(caught.value)


class Machine(BaseHTTPRequestHandler):
    """A virtual machine's metadata service (its second version), a container's, and a server of S3 in one."""

    seen: ClassVar[list[str]] = []

    def do_PUT(self) -> None:
        self._say(b"a-token-of-the-machine")

    def do_GET(self) -> None:
        keys = {
            "AccessKeyId": KEY,
            "SecretAccessKey": SECRET,
            "Token": TOKEN,
            "Expiration": "2099-01-01T00:00:00Z",
        }
        role = "/latest/meta-data/iam/security-credentials/"
        if self.path == role:
            self._say(b"of-services")
        elif self.path in (f"{role}of-services", "/container"):
            self._say(json.dumps({"Code": "Success", "Type": "AWS-HMAC", **keys}).encode())
        else:
            self.seen.append(f"{self.headers['Authorization']} {self.headers['x-amz-security-token']}")
            self._say(b"from the bucket")

    def _say(self, body: bytes) -> None:
        self.send_response(200)
        for name, value in {"ETag": '"1"', "Last-Modified": "Fri, 27 Nov 2026 09:00:00 GMT"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    "variables",
    [
        {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "{url}"},
        {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": "{url}/container",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "{folder}/token",
        },
    ],
    ids=["machine", "container"],
)
def test_a_machines_own_account_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    """On EC2 and EKS nothing is set by hand; keys there are lent for some hours, and obstore renews them."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    Machine.seen.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Machine) as http:
        threading.Thread(target=http.serve_forever, args=(0.05,)).start()
        url = f"http://127.0.0.1:{http.server_address[1]}"
        (tmp_path / "token").write_text("a-token-of-the-pod")
        found = {name: value.format(url=url, folder=tmp_path) for name, value in variables.items()}
        empty = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}  # compose files write nothing
        found |= {"AWS_ENDPOINT_URL": url, "HOME": str(tmp_path), "NO_PROXY": "*", **empty}
        for name, value in found.items():
            monkeypatch.setenv(name, value)
        try:
            assert BucketStore("s3://bucket").read("a") == b"from the bucket"
        finally:
            http.shutdown()
    (seen,) = Machine.seen
    assert f"Credential={KEY}/" in seen
    assert seen.endswith(TOKEN)
