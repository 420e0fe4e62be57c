"""A file of a package becomes a source that is pinned by digest, by real pips against a folder of wheels."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.found_tables import MODEL, pets
from tests.support.kaggle_stand_in import make_zip
from tests.support.pips import list_oldest_and_newest, use_pip
from timberline.registry.errors import ConfigError
from timberline.training.config import PackageSource, load_model_config
from timberline.training.data.fetch import fetched_files, run_fetch
from timberline.training.errors import SourceError
from timberline.training.init.origin import find_source
from timberline.training.init.run import run_init

MEMBER = "pet_data/sets/pets.csv"


@pytest.fixture(params=[pytest.param(version, id=f"pip-{version}") for version in list_oldest_and_newest()])
def wheels(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one wheel for any Python, which is all that pip may look into."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    use_pip(monkeypatch, request.param, str(folder))
    wheel = make_zip(
        {
            MEMBER: pets(60).encode(),
            "pet_data-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: pet-data\nVersion: 1.0\n",
            "pet_data-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n",
            "pet_data-1.0.dist-info/RECORD": b"",
        }
    )
    (folder / "pet_data-1.0-py3-none-any.whl").write_bytes(wheel)
    return folder


def test_what_is_written_can_be_fetched_elsewhere(tmp_path: Path, wheels: Path) -> None:
    """The folder is committed, and the next machine has nothing of what this one downloaded."""
    models = tmp_path / "models"
    run_init(MODEL, f"package:pet-data/{MEMBER}", "Kind", models, tmp_path / "data")
    config = load_model_config(models, MODEL, use_environment=False)
    assert isinstance(config.source, PackageSource)
    assert (config.source.version, config.source.member) == ("1.0", MEMBER)
    shutil.rmtree(tmp_path / "data")
    run_fetch(config, tmp_path / "data")
    (file,) = fetched_files(config, tmp_path / "data")
    assert file.read_bytes() == pets(60).encode()


def test_a_package_without_a_file_lists_its_tables(tmp_path: Path, wheels: Path) -> None:
    """Nobody knows the paths inside of a wheel; a name alone is enough to be told."""
    for origin, words in (
        ("package:pet-data", f"It has {MEMBER}"),
        ("package:pet-data/pets.csv", f"Did you mean {MEMBER}"),
    ):
        with pytest.raises(ConfigError, match=words):
            find_source(origin, tmp_path / "kept")


def test_a_package_that_has_no_wheel_is_an_error_with_pips_reason(tmp_path: Path, wheels: Path) -> None:
    """A package of source alone would have to be run to be read."""
    with pytest.raises(SourceError, match=r"could not download a wheel: .*no-such-data"):
        find_source("package:no-such-data==2.0/t.csv", tmp_path / "kept")
