"""The requests to the services: bodies drawn from the golden rows of the versions under test.

Both arms get the same bodies. A golden row brings its known answer along, so every reply of the
arm it belongs to is checked, not only timed.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Annotated

import msgspec

from timberline.benchmarks.errors import WorkloadError
from timberline.benchmarks.measure.formats import Nulls, Row, carries, write_body
from timberline.benchmarks.measure.records import Body, Form
from timberline.registry.errors import ConfigError
from timberline.registry.manifest import Manifest
from timberline.registry.moments import write_row
from timberline.registry.runtime.documents import encode_canonical
from timberline.registry.runtime.settings import load_settings
from timberline.registry.signature import Column

WORKLOADS = Path(__file__).resolve().parents[1] / "workloads"

Count = Annotated[int, msgspec.Meta(ge=1)]
Answer = tuple[float, ...]


class Mix(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Requests of ``rows`` rows in this form come ``weight`` times as often as those of weight 1."""

    rows: Count
    form: Form = "json"
    weight: Annotated[float, msgspec.Meta(gt=0)] = 1.0


class Workload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many different bodies, and of which sizes; seeded, so that a run can be repeated."""

    seed: int
    bodies: Count
    mix: tuple[Mix, ...]


def load_workload(name: str) -> Workload:
    """Read a committed workload by name, or any by its path.

    Raises:
        ConfigError: there is none, or a key in it is wrong.
    """
    if name.endswith(".toml"):
        return load_settings(Path(name), Workload)
    known = sorted(path.stem for path in WORKLOADS.glob("*.toml"))
    if name not in known:
        raise ConfigError(
            f"no workload {name[:80]!r}",
            where="duet.workload",
            hint=f"There are {', '.join(known)}; a path to another one ends in .toml.",
        )
    return load_settings(WORKLOADS / f"{name}.toml", Workload)


def golden_bodies(manifest: Manifest, arm: str) -> tuple[Body, ...]:
    """One body for each golden row of a version, with its known answer."""
    columns = manifest.signature.columns
    return tuple(
        msgspec.structs.replace(write_body("json", [row], columns), answers={arm: (answer,)})
        for row, answer in _golden(manifest).values()
    )


def draw_bodies(workload: Workload, versions: dict[str, Manifest]) -> tuple[Body, ...]:
    """Draw bodies that every version accepts.

    Rows come from all golden rows when the versions take the same columns; from the champion's
    alone when the candidate takes more (its clients do not know the new column yet) or does not read all
    that they send.

    Args:
        workload: sizes, forms and seed.
        versions: manifests by arm; "candidate" alone for a first version.

    Raises:
        WorkloadError: there is no golden row to draw from, or a form in the mix cannot carry these
            versions' columns.
    """
    pool = _Pool(versions)
    if not pool.rows or not workload.mix:
        raise WorkloadError(
            "has no row to send",
            where=pool.where,
            hint="Export with golden_rows above 0 and give the workload a [[mix]].",
        )
    choices = {mix.form: pool.find_choices(mix.form) for mix in workload.mix}
    weights = [mix.weight for mix in workload.mix]
    chance = random.Random(workload.seed)
    bodies = []
    for _ in range(workload.bodies):
        mix = chance.choices(workload.mix, weights)[0]
        bodies.append(pool.write(mix.form, chance.choices(choices[mix.form], k=mix.rows)))
    return tuple(bodies)


class _Pool:
    """The golden rows to draw from, by their canonical bytes, and every version's answers to them."""

    def __init__(self, versions: dict[str, Manifest]) -> None:
        self.rows: dict[bytes, Row] = {}
        self.where = ", ".join(f"{m.model}@{m.version}" for m in versions.values())
        self._answers: dict[bytes, dict[str, Answer]] = {}
        self._arms = tuple(versions)
        self._is_shared = len({_lay_out(manifest) for manifest in versions.values()}) == 1
        self._is_written_alike = len({_find_words(manifest) for manifest in versions.values()}) <= 1
        self._nulls = Nulls.of(manifest.table for manifest in versions.values()) if versions else Nulls()
        self._columns: tuple[Column, ...] = ()
        for arm, manifest in _sources(versions).items():
            self._columns = self._columns or manifest.signature.columns
            for key, (row, answer) in _golden(manifest).items():
                self.rows[key] = row
                self._answers.setdefault(key, {})[arm] = answer

    def find_choices(self, form: Form) -> list[bytes]:
        """The rows that can be sent in a form; those that arrive unchanged, if there are any.

        Raises:
            WorkloadError: there are none.
        """
        if form == "float32":
            for column in self._columns:
                if column.datatype == "BYTES" or column.moment == "timestamp":
                    kind = "text" if column.moment is None else "a timestamp"
                    raise _refuse_form(form, f"column {column.name} is {kind}", self.where)
            if not self._is_shared:
                raise _refuse_form(form, "the versions take different columns", self.where)
        if form == "csv" and not self._is_written_alike:
            raise _refuse_form(form, "the versions' tables write moments or booleans differently", self.where)
        exact = sorted(key for key in self.rows if self._carries(form, key))
        # Measurements seldom fit the 24 bits of a float32; they are sent all the same.
        if not exact and form != "float32":
            raise _refuse_form(form, "no golden row can be written in it", self.where)
        return exact or sorted(self.rows)

    def write(self, form: Form, keys: list[bytes]) -> Body:
        """The body of these rows, with the answers of each arm that knows them all.

        A value that was rounded beside a threshold may be another class's: the answer is not known.
        """
        rows = [self.rows[key] for key in keys]
        body = write_body(form, rows, self._columns, is_shared=self._is_shared, nulls=self._nulls)
        is_exact = all(self._carries(form, key) for key in keys)
        known = {
            arm: tuple(self._answers[key][arm] for key in keys)
            for arm in self._arms
            if is_exact and all(arm in self._answers[key] for key in keys)
        }
        return msgspec.structs.replace(body, answers=known)

    def _carries(self, form: Form, key: bytes) -> bool:
        return carries(form, self.rows[key], self._columns, self._nulls)


def _refuse_form(form: Form, reason: str, where: str) -> WorkloadError:
    return WorkloadError(
        f"cannot be asked in the form {form}: {reason}",
        where=where,
        hint=f'Take a workload without form = "{form}".',
    )


def _lay_out(manifest: Manifest) -> tuple[tuple[str, str, str | None], ...]:
    return tuple((column.name, column.datatype, column.moment) for column in manifest.signature.columns)


def _find_words(manifest: Manifest) -> tuple[object, ...]:
    """How its table writes moments and booleans, as far as it has any."""
    columns, table = manifest.signature.columns, manifest.table
    words = (table.true_text, table.false_text) if any(c.datatype == "BOOL" for c in columns) else ()
    return (*words, *((c.name, c.time_format) for c in columns if c.moment is not None))


def _sources(versions: dict[str, Manifest]) -> dict[str, Manifest]:
    columns = {arm: set(_lay_out(manifest)) for arm, manifest in versions.items()}
    if len(versions) > 1 and columns["champion"] != columns["candidate"]:
        return {"champion": versions["champion"]}
    return versions


def _golden(manifest: Manifest) -> dict[bytes, tuple[Row, Answer]]:
    """Named rows as clients send them and their answers, by the row's canonical bytes; NULL is null."""
    columns = manifest.signature.columns
    names = [column.name for column in columns]
    named: list[Row] = [
        dict(zip(names, write_row(row, columns), strict=True)) for row in manifest.golden.rows
    ]
    return {
        encode_canonical(row): (row, answer)
        for row, answer in zip(named, manifest.golden.probabilities, strict=True)
    }
