"""What is asked of the services: request bodies drawn from the golden rows of the versions under test.

Both arms get the same bodies. A golden row brings its known answer along, so every reply of the
arm it belongs to is checked, not only timed.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Annotated

import msgspec

from benchmarks.drive.plan import Body
from benchmarks.errors import WorkloadError
from registry.ground.settings import load_settings
from registry.manifest import Manifest

WORKLOADS = Path(__file__).resolve().parents[1] / "workloads"

Count = Annotated[int, msgspec.Meta(ge=1)]
Answer = tuple[float, ...]


class Mix(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Requests of ``rows`` rows come ``weight`` times as often as those of weight 1."""

    rows: Count
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
    path = Path(name) if name.endswith(".toml") else WORKLOADS / f"{name}.toml"
    return load_settings(path, Workload)


def golden_bodies(manifest: Manifest, arm: str) -> tuple[Body, ...]:
    """One body for each golden row of a version, with its known answer."""
    return tuple(
        Body(payload=_encode([row]), rows=1, answers={arm: (answer,)})
        for row, answer in _golden(manifest).values()
    )


def draw_bodies(workload: Workload, versions: dict[str, Manifest]) -> tuple[Body, ...]:
    """Draw bodies that every version accepts.

    Rows come from all golden rows when the versions take the same columns; from the champion's
    alone when the candidate takes more (its clients do not know the new column yet).

    Args:
        workload: sizes and seed.
        versions: manifests by arm; "candidate" alone for a first version.

    Raises:
        WorkloadError: there is no golden row to draw from.
    """
    answers: dict[bytes, dict[str, Answer]] = {}
    rows: dict[bytes, dict[str, object]] = {}
    for arm, manifest in _sources(versions).items():
        for key, (row, answer) in _golden(manifest).items():
            rows[key] = row
            answers.setdefault(key, {})[arm] = answer
    if not rows or not workload.mix:
        raise WorkloadError(
            "has no row to send",
            where=", ".join(f"{m.model}@{m.version}" for m in versions.values()),
            hint="Export with golden_rows above 0 and give the workload a [[mix]].",
        )
    chance = random.Random(workload.seed)
    keys = sorted(rows)
    bodies = []
    for _ in range(workload.bodies):
        size = chance.choices(workload.mix, [mix.weight for mix in workload.mix])[0].rows
        chosen = chance.choices(keys, k=size)
        known = {
            arm: tuple(answers[key][arm] for key in chosen)
            for arm in versions
            if all(arm in answers[key] for key in chosen)
        }
        bodies.append(Body(payload=_encode([rows[key] for key in chosen]), rows=size, answers=known))
    return tuple(bodies)


def _sources(versions: dict[str, Manifest]) -> dict[str, Manifest]:
    columns = {arm: {c.name: c.datatype for c in m.signature.columns} for arm, m in versions.items()}
    if len(versions) > 1 and columns["champion"] != columns["candidate"]:
        return {"champion": versions["champion"]}
    return versions


def _golden(manifest: Manifest) -> dict[bytes, tuple[dict[str, object], Answer]]:
    """Named rows and their answers, by the row's canonical bytes; NULL is sent as null."""
    names = [column.name for column in manifest.signature.columns]
    named: list[dict[str, object]] = [dict(zip(names, row, strict=True)) for row in manifest.golden.rows]
    return {
        msgspec.json.encode(row, order="sorted"): (row, answer)
        for row, answer in zip(named, manifest.golden.probabilities, strict=True)
    }


def _encode(rows: list[dict[str, object]]) -> bytes:
    return msgspec.json.encode(rows[0] if len(rows) == 1 else {"instances": rows})
