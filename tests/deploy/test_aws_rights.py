"""The rights of each use: a release goes its way under them, and each right that is taken away is missed.

moto enforces what the roles of deploy/aws may: it checks signatures, effects, actions and resources. It reads
no conditions, and says of a missing object that it is missing to whoever asks. What Amazon makes of
`s3:ListBucket` is done by a proxy in front of it: a list of another prefix is refused, and so is a missing
object whose key is none of the prefixes.
"""

from __future__ import annotations

import copy
import fnmatch
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import pytest

from tests.support.aws import Cloud, read_template, resolve, serve_aws
from tests.support.makefile import DEADLINE_S, QUICK_GATE
from tests.support.registry_commands import build_registry
from tests.support.s3_proxy import Asked, serve_proxy
from tests.support.tables import NAME, SmallTable, rows
from timberline.registry.bucket import PART_BYTES

pytestmark = pytest.mark.real("moto")

# The stages of stages.yaml in their order, each with its use.
STAGES = {
    "fetch": "Fetch",
    "etl": "Train",
    "train": "Train",
    "evaluate": "Train",
    "export": "Train",
    "gate": "Gate",
    "promote": "Promote",
}
# A network that trains in seconds, and a gate that lets it pass.
SETTINGS = ("network.widths=[8]", "gate.min_accuracy=0", "gate.baseline=warn", "training.epochs=2")
WITH_SETTINGS = ("train", "evaluate", "export")
REFUSED = "access is refused"


class Right(NamedTuple):
    """One action on one resource that a statement allows a role."""

    role: str
    policy: str
    statement: int
    action: str
    resource: str

    def __str__(self) -> str:
        place = self.resource.partition("BUCKET")[2] or "/"
        return f"{self.role}-{self.action.partition(':')[2]}-{place}"


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def list_rights(template: str, role: str) -> list[Right]:
    """What a role of a template is allowed, one by one."""
    policies = resolve(
        read_template(template)["Resources"][role]["Properties"]["Policies"], {"Bucket": "BUCKET"}
    )
    return [
        Right(role, policy["PolicyName"], number, action, resource)
        for policy in policies
        for number, statement in enumerate(policy["PolicyDocument"]["Statement"])
        if statement["Effect"] == "Allow"
        for action in as_list(statement["Action"])
        for resource in as_list(statement["Resource"])
    ]


RIGHTS = [
    right
    for role in ("GateRole", "PromoteRole", "TrainRole", "FetchRole")
    for right in list_rights("stages.yaml", role)
]
# Without these commands succeed, and leave behind what they would have removed: tests of their own.
USED_IN_NEED = ("s3:AbortMultipartUpload", "s3:DeleteObject")


def without(documents: dict[str, Any], right: Right, bucket: str) -> dict[str, Any]:
    """The policies but for one action on one resource."""
    changed = copy.deepcopy(documents)
    statements = changed[right.policy]["Statement"]
    old = statements.pop(right.statement)
    resource = right.resource.replace("BUCKET", bucket)
    left = [
        {**old, "Action": [each for each in as_list(old["Action"]) if each != right.action]},
        {**old, "Action": right.action, "Resource": [e for e in as_list(old["Resource"]) if e != resource]},
    ]
    statements += [each for each in left if each["Action"] and each["Resource"]]
    return changed


def list_prefixes(documents: dict[str, Any]) -> list[str]:
    """The patterns of what the policies let a role list."""
    return [
        pattern
        for document in documents.values()
        for statement in document["Statement"]
        if "s3:ListBucket" in as_list(statement["Action"])
        for pattern in statement["Condition"]["StringLike"]["s3:prefix"]
    ]


class Site:
    """The stacks of base, stages and service, a table, and the roles by their logical names."""

    def __init__(self, aws: Cloud, folder: Path) -> None:
        self.aws = aws
        self.folder = folder
        base = aws.deploy("timberline", "base.yaml")
        self.bucket = base["Bucket"]
        for template, parameters in aws.list_parameters(base).items():
            aws.deploy(template.partition(".")[0], template, **parameters)
        found = aws.list_resources("stages") | aws.list_resources("service")
        self.roles = {name: physical for name, physical in found.items() if name.endswith("Role")}
        # Who looks, for the proxy, whether there is an object.
        self._looker = aws.client("s3", aws.make_root())
        self.policies = {name: aws.read_policies(role) for name, role in self.roles.items()}
        for name in self.roles:
            self.grant(name)
        self.table = SmallTable(folder / "table", rows(300))
        self._runs = 0

    def grant(self, name: str, documents: dict[str, Any] | None = None) -> None:
        """Give a role the policies of its template, or others."""
        self.aws.write_policies(self.roles[name], documents or self.policies[name])

    def environment(self, name: str) -> dict[str, str]:
        """As the task of a role has it, on a machine of its own."""
        self._runs += 1
        kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        places = {"DATA": f"s3://{self.bucket}/data", "REGISTRY": f"s3://{self.bucket}/registry"}
        given = {"MODEL": NAME, "MODELS": str(self.table.models), **places}
        cache = {"TIMBERLINE_CACHE": str(self.folder / f"machine-{self._runs}")}
        return kept | QUICK_GATE | given | cache | self.aws.take_role(self.roles[name])

    def is_hidden(self, patterns: list[str], asked: Asked) -> bool:
        """Whether Amazon refuses a request for what the role may not list."""
        bucket, _, key = asked.path.partition("/")
        if asked.method not in ("GET", "HEAD") or bucket != self.bucket:
            return False
        if not key:
            key = dict(parse_qsl(asked.query, keep_blank_values=True)).get("prefix", "")
        elif self._is_there(key):
            return False
        return not any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)

    def _is_there(self, key: str) -> bool:
        try:
            self._looker.head_object(Bucket=self.bucket, Key=key)
        except self._looker.exceptions.ClientError:
            return False
        return True

    def run(self, name: str, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """A command as the task of a role; every request of it needs a right."""
        environment = self.environment(name) | more
        patterns = list_prefixes(self.aws.read_policies(self.roles[name]))
        with self.aws.enforced(), serve_proxy(self.aws.endpoint) as proxy:
            proxy.decide = lambda asked: 403 if self.is_hidden(patterns, asked) else None
            environment["AWS_ENDPOINT_URL"] = proxy.endpoint
            return subprocess.run(
                [sys.executable, "-m", "timberline", *words],
                env=environment,
                capture_output=True,
                text=True,
                timeout=DEADLINE_S,
                check=False,
            )

    def list_keys(self, prefix: str) -> list[str]:
        """The keys below a prefix."""
        pages = self.aws.client("s3").get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=self.bucket, Prefix=prefix)
        return [each["Key"] for page in found for each in page.get("Contents", [])]

    def remove(self, *prefixes: str) -> None:
        """Remove what lies below these prefixes."""
        client = self.aws.client("s3")
        for key in [key for prefix in prefixes for key in self.list_keys(prefix)]:
            client.delete_object(Bucket=self.bucket, Key=key)

    def add_row(self) -> None:
        """The table has a row more."""
        path = self.table.root / "table.csv"
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{rows(1, start=self._runs)[0]}\n")

    def copy_registry(self) -> None:
        """Put a registry of a folder, with tiny@1 to 3, into the bucket: its aliases keep their layout."""
        self.remove("registry/tiny/", "registry/.timberline/")
        client = self.aws.client("s3")
        source = self.folder / "registry"
        if not source.is_dir():
            build_registry(source)
        for path in (source / "tiny").rglob("*"):
            if path.is_file():
                key = f"registry/{path.relative_to(source).as_posix()}"
                client.put_object(Bucket=self.bucket, Key=key, Body=path.read_bytes())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Where a release has gone all its way, each stage under the rights of its use."""
    folder = tmp_path_factory.mktemp("aws")
    with serve_aws(folder) as aws:
        site = Site(aws, folder)
        for stage, use in STAGES.items():
            settings = [f"--set={each}" for each in SETTINGS if stage in WITH_SETTINGS]
            done = site.run(f"{use}Role", stage, *settings)
            assert done.returncode == 0, f"{stage}: {done.stderr}"
        yield site


def test_a_release_goes_its_way_under_the_rights_of_each_use(site: Site) -> None:
    """A right that is missing ends a release at night, in the stage that nobody tried alone."""
    told = site.run("ServeRole", "alias", f"{NAME}@production", "--json")
    assert told.returncode == 0, told.stderr
    assert '"version": 1' in told.stdout
    # Checkpoints go when training has ended; what may not be removed stays for ever.
    assert site.list_keys("data/checkpoints/") == []


def try_fetch(site: Site) -> Iterator[subprocess.CompletedProcess[str]]:
    """What was never fetched, and a table that has a row more."""
    site.remove("data/raw/")
    yield site.run("FetchRole", "fetch")
    site.add_row()
    yield site.run("FetchRole", "fetch")


def try_train(site: Site) -> Iterator[subprocess.CompletedProcess[str]]:
    """A write to the registry; rows that were never prepared, and others."""
    yield site.run("TrainRole", "alias", "set", f"{NAME}@tried", "1")
    site.remove("data/prepared/")
    yield site.run("TrainRole", "etl")
    yield site.run("TrainRole", "etl", "--set=split.seed=7")


def try_gate(site: Site) -> Iterator[subprocess.CompletedProcess[str]]:
    """Once more, as it passed already; with nothing in production, as it is not judged against itself."""
    site.remove(f"registry/{NAME}/aliases/production/")
    yield site.run("GateRole", "gate", "--again")


def try_promote(site: Site) -> Iterator[subprocess.CompletedProcess[str]]:
    """In a registry that was copied from a folder, where nobody has written yet."""
    site.copy_registry()
    yield site.run("PromoteRole", "rollback", "--reason=a test", MODEL="tiny")
    site.remove("registry/.timberline/")
    yield site.run("PromoteRole", "promote", "--force", "--reason=a test", MODEL=NAME)


# In this order: what the later ones change the earlier ones read.
TRIES: dict[str, Callable[[Site], Iterator[subprocess.CompletedProcess[str]]]] = {
    "GateRole": try_gate,
    "PromoteRole": try_promote,
    "TrainRole": try_train,
    "FetchRole": try_fetch,
}


@pytest.mark.parametrize("role", TRIES)
def test_what_a_right_is_tried_by_succeeds_with_all_of_them(site: Site, role: str) -> None:
    """Else the next test would find any right needed."""
    for done in TRIES[role](site):
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("right", [each for each in RIGHTS if each.action not in USED_IN_NEED], ids=str)
def test_a_right_that_is_taken_away_is_missed(site: Site, right: Right) -> None:
    """What nobody misses should not be there."""
    site.grant(right.role, without(site.policies[right.role], right, site.bucket))
    try:
        found = next((done for done in TRIES[right.role](site) if done.returncode), None)
    finally:
        site.grant(right.role)
    assert found, f"nothing of {right.role} needs {right}"
    assert found.returncode == 3, found.stderr
    assert REFUSED in found.stderr


UPLOAD = """
import sys
from pathlib import Path
from timberline.registry.data_bucket import DataBucket

DataBucket(sys.argv[1]).send("large", Path(sys.argv[2]), lambda _: None)
"""


@pytest.mark.parametrize(
    "right", [each for each in RIGHTS if each.action == "s3:AbortMultipartUpload"], ids=str
)
@pytest.mark.parametrize("is_granted", [True, False])
def test_parts_of_a_broken_upload_go_by_the_right_to_abort_alone(
    site: Site, tmp_path: Path, right: Right, is_granted: bool
) -> None:
    """Nobody sees them, and they are paid for; without the right they stay until the bucket's rule."""
    (large := tmp_path / "large").write_bytes(bytes(3 * PART_BYTES))
    place = right.resource.partition("BUCKET/")[2].removesuffix("/*")
    granted = None if is_granted else without(site.policies[right.role], right, site.bucket)
    site.grant(right.role, granted)
    environment = site.environment(right.role)
    try:
        with site.aws.enforced(), serve_proxy(site.aws.endpoint) as proxy:
            proxy.decide = lambda asked: 500 if "partNumber=2" in asked.query else None
            environment["AWS_ENDPOINT_URL"] = proxy.endpoint
            done = subprocess.run(
                [sys.executable, "-c", UPLOAD, f"s3://{site.bucket}/{place}", large],
                env=environment,
                capture_output=True,
                text=True,
                timeout=DEADLINE_S,
                check=False,
            )
    finally:
        site.grant(right.role)
    client = site.aws.client("s3")
    left = client.list_multipart_uploads(Bucket=site.bucket).get("Uploads", [])
    for each in left:
        client.abort_multipart_upload(Bucket=site.bucket, Key=each["Key"], UploadId=each["UploadId"])
    assert done.returncode == 1, done.stderr
    assert bool(left) != is_granted


def test_checkpoints_go_by_the_right_to_delete_alone(site: Site) -> None:
    """It is the one thing that a release removes at once; the other is rows that were replaced a day ago."""
    (right,) = [each for each in RIGHTS if each.action == "s3:DeleteObject"]
    settings = [f"--set={each}" for each in SETTINGS[:-1]]
    assert site.run("FetchRole", "fetch").returncode == 0
    assert site.run("TrainRole", "etl").returncode == 0
    assert site.run("TrainRole", "train", *settings, "--set=training.epochs=3").returncode == 0
    assert site.list_keys("data/checkpoints/") == []
    site.grant(right.role, without(site.policies[right.role], right, site.bucket))
    try:
        done = site.run("TrainRole", "train", *settings, "--set=training.epochs=4")
    finally:
        site.grant(right.role)
    assert done.returncode == 0, done.stderr
    assert site.list_keys("data/checkpoints/") != []


@pytest.mark.parametrize("key", ["aliases/production/log/000000009.json", "heads/production.json"])
def test_whoever_publishes_cannot_move_production(site: Site, key: str) -> None:
    """It is what the gate stands for; without the refusal of its policy a publisher could."""
    (allowed, refused) = site.policies["TrainRole"]["registry"]["Statement"][-2:]
    assert (allowed["Effect"], refused["Effect"]) == ("Allow", "Deny")
    environment = site.environment("TrainRole")
    client = site.aws.client("s3", environment)
    with site.aws.enforced(), pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
        client.put_object(Bucket=site.bucket, Key=f"registry/{NAME}/{key}", Body=b"{}")
    changed = copy.deepcopy(site.policies["TrainRole"])
    changed["registry"]["Statement"].remove(refused)
    site.grant("TrainRole", changed)
    try:
        with site.aws.enforced():
            client.put_object(Bucket=site.bucket, Key=f"registry/{NAME}/{key}", Body=b"{}")
    finally:
        site.grant("TrainRole")
        site.remove(f"registry/{NAME}/{key}")
    assert not site.list_keys(f"registry/{NAME}/{key}")


def test_the_service_needs_to_read_and_to_list(site: Site) -> None:
    """Without the one it has no graph, without the other Amazon says "refused" of what is not there."""
    for right in list_rights("service.yaml", "ServeRole"):
        site.grant("ServeRole", without(site.policies["ServeRole"], right, site.bucket))
        try:
            done = site.run("ServeRole", "list", NAME)
        finally:
            site.grant("ServeRole")
        assert done.returncode
        assert REFUSED in done.stdout + done.stderr
    assert site.run("ServeRole", "list", NAME).returncode == 0
