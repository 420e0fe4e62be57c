"""How versions are written."""

from __future__ import annotations

import pytest

from timberline.registry.errors import ConfigError
from timberline.registry.names import ModelRef, check_name, parse_number


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("forest_cover", ModelRef("forest_cover")),
        ("forest_cover@7", ModelRef("forest_cover", version=7)),
        ("forest_cover@production", ModelRef("forest_cover", alias="production")),
    ],
)
def test_reference_names_a_model_a_version_or_an_alias(text: str, ref: ModelRef) -> None:
    """These three spellings are the whole language of every command line."""
    assert ModelRef.parse(text) == ref
    assert str(ref) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Forest",
        "7",
        "m@",
        "m@0",
        "m@07",
        "m@-1",
        "m@1@2",
        "m @1",
        "m@A",
        "../m",
        "m/1",
        "m\n",
        "m@٣",
        "é",
    ],
)
def test_other_spellings_are_refused(text: str) -> None:
    """A name becomes a folder and a label; whatever could leave the folder or look like another is out."""
    with pytest.raises(ConfigError, match="expected model, model@7, model@7#sha256:… or model@alias"):
        ModelRef.parse(text)


def test_long_wrong_name_is_cut_in_the_message() -> None:
    """An error must not echo a whole payload."""
    with pytest.raises(ConfigError) as caught:
        ModelRef.parse("X" * 10_000)
    assert len(str(caught.value)) < 300


def test_name_check_says_whose_name_is_wrong() -> None:
    """Model and alias stand side by side on a command line; the message must say which is meant."""
    assert check_name("staging", "an alias") == "staging"
    with pytest.raises(ConfigError, match="expected the name of an alias"):
        check_name("Staging", "an alias")


@pytest.mark.parametrize(("text", "number"), [("7", 7), ("0", None), ("07", None), ("aliases", None)])
def test_version_number_has_one_spelling(text: str, number: int | None) -> None:
    """Two spellings of one number would be two folders of one version."""
    assert parse_number(text) == number
