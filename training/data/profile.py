"""profile.json: what the prepared data are, for training, the manifest and whoever looks.

Only the shape of the file; `training.data.statistics` measures it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from timberline.registry.errors import StageError
from timberline.registry.manifest import Histogram
from timberline.registry.runtime.documents import decode_document, encode_document
from timberline.registry.signature import ClassLabel, Column
from timberline.training.errors import DatasetError

PROFILE_SCHEMA_VERSION = 1


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every table in a profile."""


class ColumnProfile(_Part, frozen=True, kw_only=True):
    """One raw input column over the training split.

    Numbers: ``std`` is that of the rows themselves (divided by n); ``quantiles`` maps a share to
    the value that at least this share of the rows does not exceed. Text: ``categories`` are the
    1,000 most frequent values in the order of their text, ``distinct`` counts all of them.
    """

    dtype: Literal["integer", "number", "boolean", "string"]
    nulls: int
    histogram: Histogram
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    std: float | None = None
    quantiles: dict[str, float] | None = None
    categories: tuple[str, ...] | None = None
    distinct: int | None = None


class Duplicates(_Part, frozen=True, kw_only=True):
    """Rows whose raw inputs stand in more than one split; ``rows`` counts them by split.

    ``distinct_inputs`` counts the different inputs. Rows are compared by a 64-bit hash: among a
    million rows a false find has a chance of one in 30 million.
    """

    distinct_inputs: int
    rows: dict[str, int]


class Profile(_Part, frozen=True, kw_only=True):
    """What the prepared data are.

    ``classes`` is final: model.toml's, or those found in the data. ``class_counts`` are rows by
    split in class order. ``fingerprints`` identify the rows of ``source``, ``train``,
    ``validation`` and ``test`` whatever their order; they are comparable between runs of the same
    ``duckdb`` version. ``input_columns`` are the declared inputs with what training saw in them.
    """

    schema_version: int
    model: str
    duckdb: str
    classes: tuple[ClassLabel, ...]
    feature_names: tuple[str, ...]
    input_columns: tuple[Column, ...]
    rejected_lines: int
    rows: dict[str, int]
    class_counts: dict[str, tuple[int, ...]]
    fingerprints: dict[str, str]
    duplicates: Duplicates
    columns: dict[str, ColumnProfile]

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the whole source."""
        return self.fingerprints["source"]

    @property
    def histograms(self) -> dict[str, Histogram]:
        """The histogram of each raw input column over the training split."""
        return {name: column.histogram for name, column in self.columns.items()}


def encode_profile(profile: Profile) -> bytes:
    """JSON with sorted keys: equal profiles have equal bytes."""
    return encode_document(profile)


def load_profile(path: Path) -> Profile:
    """Read ``profile.json``.

    Raises:
        StageError: there is none.
        DatasetError: it is damaged, or of another ``schema_version``.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise StageError("the data is not prepared", where=str(path), hint="Run `make etl`.") from None
    what, hint = "a profile", "Run `make etl` again."
    return decode_document(
        data, Profile, PROFILE_SCHEMA_VERSION, DatasetError, what=what, where=str(path), hint=hint
    )
