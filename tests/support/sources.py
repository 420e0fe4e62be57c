"""What the tests of sources share: a smallest configuration around a source, and what lies in a folder."""

from __future__ import annotations

from pathlib import Path

from timberline.training.config import (
    ColumnSection,
    ModelConfig,
    ModelSection,
    RandomSplit,
    Source,
    TargetSection,
)

# Recognisable wherever it turns up.
SECRET = "s3cr3t-K4ggl3-k3y-0123456789"
TABLE = b"a,b,y\n1,2,0\n3,4,1\n"


def config_for(source: Source) -> ModelConfig:
    """A model of two columns that comes from ``source``."""
    return ModelConfig(
        model=ModelSection(name="tiny"),
        source=source,
        columns={name: ColumnSection(type="integer") for name in ("a", "b", "y")},
        target=TargetSection(column="y"),
        split=RandomSplit(),
    )


def visible_files(data: Path) -> list[str]:
    """Every file under ``data`` that a reader could take for a result."""
    return sorted(
        path.relative_to(data).as_posix()
        for path in data.rglob("*")
        if path.is_file() and not any(part.startswith(".partial-") for part in path.parts)
    )


def hidden_files(data: Path) -> list[str]:
    """Every file that a download or stage in progress has left, locks aside."""
    return sorted(
        path.relative_to(data).as_posix()
        for path in data.rglob("*")
        if path.is_file() and any(part.startswith(".partial-") for part in path.parts) and path.stat().st_size
    )
