"""docs/reference/files.md and registry.md name every file and key that is written."""

from __future__ import annotations

import msgspec
import pytest

from tests.support.markdown import ROOT
from timberline.benchmarks.report.record import PAGE_FILE
from timberline.registry.__main__ import _HELP as REGISTRY_VERBS
from timberline.registry.aliases import ALIASES, HEADS
from timberline.registry.manifest import Lineage, Manifest, Metrics
from timberline.registry.objects import CLAIM_FILE
from timberline.registry.rows import SEEN_FILE, TEST_ROWS_FILE
from timberline.registry.runs import (
    BASELINES_FILE,
    CLASS_COLUMN,
    NOISE_FILE,
    ROW_COLUMN,
    RunQuality,
    RunRecord,
    TrainingNoise,
)
from timberline.registry.runtime.receipts import SharedReceipt
from timberline.registry.store import EVALUATION_FILE, LEDGER, MODEL_FILE
from timberline.registry.summary import SUMMARY_FILE, StoredSummary, StoredVerdict
from timberline.registry.verdict import VERDICT_FILE
from timberline.registry.version import MANIFEST_FILE
from timberline.training.data.checks import CheckReport, CheckResult
from timberline.training.data.profile import ColumnProfile, Profile
from timberline.training.model.checkpoints import Epoch

FILES = (ROOT / "docs" / "reference" / "files.md").read_text("utf-8")
REGISTRY = (ROOT / "docs" / "reference" / "registry.md").read_text("utf-8")
DOCUMENTS = {
    "## Receipts": (SharedReceipt,),
    "### `profile.json`": (Profile, ColumnProfile),
    "### `checks.json`": (CheckReport, CheckResult),
    "## Runs": (Epoch,),
    "### `run.json`": (RunRecord,),
    "### `manifest.json`": (Manifest, Lineage, Metrics),
    "### `summary.json`": (StoredSummary, StoredVerdict),
    "### `training_noise.json`": (TrainingNoise, RunQuality),
}


def section(heading: str) -> str:
    """The text from a heading up to the next one."""
    return FILES.split(f"\n{heading}\n", 1)[1].split("\n#", 1)[0]


@pytest.mark.parametrize(
    ("heading", "key"),
    [
        (heading, field.encode_name)
        for heading, kinds in DOCUMENTS.items()
        for kind in kinds
        for field in msgspec.structs.fields(kind)
    ],
)
def test_every_key_of_a_document_is_on_the_page(heading: str, key: str) -> None:
    """Whoever reads a document with another program needs every key, and finds it under its document."""
    assert f"`{key}`" in section(heading)


@pytest.mark.parametrize(
    "name", [BASELINES_FILE, EVALUATION_FILE, NOISE_FILE, PAGE_FILE, ROW_COLUMN, CLASS_COLUMN]
)
def test_every_named_file_and_column_is_on_the_page(name: str) -> None:
    """They are what a notebook opens."""
    assert f"`{name}`" in FILES


def test_every_command_of_the_registry_is_on_its_page() -> None:
    """At night, with a damaged registry, the page is where to look."""
    missing = [verb for verb in REGISTRY_VERBS if f"timberline {verb} " not in REGISTRY]
    assert missing == []


def test_every_document_and_folder_of_the_registry_is_on_its_page() -> None:
    """Whoever finds a file there wants to know what it is."""
    files = (MODEL_FILE, EVALUATION_FILE, SEEN_FILE, TEST_ROWS_FILE, MANIFEST_FILE, VERDICT_FILE, "report.")
    names = (ALIASES, HEADS, LEDGER, SUMMARY_FILE, CLAIM_FILE, "head.json", "conditions.json", *files)
    assert [name for name in names if name not in REGISTRY] == []
