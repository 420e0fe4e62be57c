"""What the pages about a bucket compute and quote; `tests/docs/test_bucket.py` follows their commands."""

from __future__ import annotations

import msgspec

from tests.support.markdown import ROOT, list_blocks
from timberline.registry import bucket
from timberline.registry.runtime.documents import decode_json

COSTS = (ROOT / "docs" / "explanation" / "bucket-costs.md").read_text("utf-8")
REGISTRY = (ROOT / "docs" / "reference" / "registry.md").read_text("utf-8")
MONTH_S = 2_592_000
LOOK_REQUESTS = 1.4
PROVIDERS = {"Amazon S3": (0.0004, 0.005, 0.023), "Cloudflare R2": (0.00036, 0.0045, 0.015)}


class Statement(msgspec.Struct, forbid_unknown_fields=True, rename="pascal"):
    """A statement of an account's policy."""

    effect: str
    action: str | list[str]
    resource: str | list[str]
    condition: dict[str, dict[str, list[str]]] = {}


class Policy(msgspec.Struct, forbid_unknown_fields=True, rename="pascal"):
    """A policy as Amazon's console takes it."""

    version: str
    statement: list[Statement]


def dollars(value: float) -> str:
    """As the page writes it."""
    return f"${value:,.2f}"


def watch(every_s: float, price: float, requests: float = LOOK_REQUESTS) -> float:
    """A month of 1,000 services."""
    return 1000 * (MONTH_S / every_s) * requests * price / 1000


def read_rows(text: str, first: str) -> list[list[str]]:
    """The cells of every row of a table whose first cell begins so."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith(f"| {first}")
    ]


def test_the_worked_example_is_what_the_formula_gives() -> None:
    """Whoever puts prices of their own into it takes the sums of the page for a check."""
    for column, (get, put, month) in enumerate(PROVIDERS.values(), start=2):
        parts = {
            "watching, every 20 s": watch(20, get),
            "loading": 1000 * 40 * 8 * get / 1000,
            "ten `list`": (300 * 5000 * get + 300 * (6 + 1 + 5000 / 500) * put) / 1000,
            "a release a week": 50_000 * get / 1000,
            "storage": 120 * month,
        }
        for first, value in parts.items():
            ((*cells,),) = read_rows(COSTS, first)
            assert cells[column] == dollars(value), first
        (cells,) = read_rows(COSTS, "**sum**")
        assert cells[column] == f"**{dollars(sum(round(value, 2) for value in parts.values()))}**"


def test_the_prices_of_pauses_are_what_the_formula_gives() -> None:
    """They are what somebody chooses `--watch-s` by."""
    get, put, _ = PROVIDERS["Amazon S3"]
    for every_s, first in ((1, "1 |"), (10, "10 |"), (20, "20 (default)"), (60, "60 |")):
        (cells,) = read_rows(COSTS, first)
        assert cells[2] == dollars(watch(every_s, get))
    assert dollars(watch(20, put, 1)) in COSTS


def test_the_policies_and_the_rule_can_be_pasted() -> None:
    """A right that is misspelt is found in production, by a service that does not start."""
    documents = [block.code.encode() for block in list_blocks(REGISTRY) if block.language == "json"]
    rule, *policies = documents
    assert decode_json(rule, dict[str, list[dict[str, object]]])["Rules"][0]["Status"] == "Enabled"
    found = [decode_json(policy, Policy) for policy in policies]
    assert len(found) == 3
    actions = {
        action
        for policy in found
        for statement in policy.statement
        for action in ([statement.action] if isinstance(statement.action, str) else statement.action)
    }
    assert actions == {
        "s3:GetObject",
        "s3:ListBucket",
        "s3:PutObject",
        "s3:AbortMultipartUpload",
        "s3:DeleteObject",
    }


def test_the_timeouts_of_the_page_are_those_of_the_program() -> None:
    """They decide how long a release waits for a store that is down."""
    patient, quick, bulk = bucket._PATIENT, bucket._QUICK, bucket.BULK
    text = " ".join(REGISTRY.split())
    assert (
        f"asked a second time after {patient.read_s} seconds and given up after {2 * patient.read_s};" in text
    )
    assert f"for files it is {bulk.read_s} seconds an attempt;" in text
    assert f"gives up after {quick.read_s} seconds an attempt." in text
