"""Ratios multiplied along the champions."""

from __future__ import annotations

import math

import pytest

from timberline.benchmarks.history.releases import Link, chain_ratios


def test_the_index_is_the_product_along_the_champions_and_variances_of_logarithms_add() -> None:
    """Three times 10 % slower is 33 % slower; an error that did not grow would be a lie."""
    links = [Link(2, 1, 1.1, 1.2), Link(3, 2, 1.1, 1.2), Link(4, 3, 1.1, 1.2)]
    indexes = chain_ratios(links, [1])
    assert [indexes[version].value for version in (1, 2, 3, 4)] == pytest.approx([1, 1.1, 1.21, 1.331])
    assert indexes[4].log_error == pytest.approx(math.sqrt(3) * links[0].log_error)
    assert links[0].log_error == pytest.approx(math.log(1.2 / 1.1) / 1.6449)
    assert (indexes[1].low, indexes[1].high) == (1.0, 1.0)


def test_a_candidate_is_linked_to_the_champion_that_it_met_not_to_the_version_before() -> None:
    """After a rollback the next candidate meets an older version; its number says nothing."""
    links = [Link(2, 1, 1.5, 1.6), Link(3, 1, 0.9, 1.0)]
    indexes = chain_ratios(links, [1])
    assert indexes[3].value == pytest.approx(0.9)
    assert ([version for version, _ in indexes[3].path], indexes[3].root) == ([3], 1)


def test_a_missing_link_starts_a_new_chain_instead_of_being_guessed() -> None:
    """A forced version without a verdict has no ratio; treating it as equal would hide what it cost."""
    indexes = chain_ratios([Link(2, 1, 1.1, 1.2), Link(4, 3, 1.2, 1.3)], [1])
    assert indexes[2].root == 1
    assert (indexes[3].root, indexes[4].root) == (3, 3)
    assert indexes[4].value == pytest.approx(1.2)


def test_a_verdict_given_again_against_a_later_champion_closes_no_circle() -> None:
    """Version 2, rolled back and judged again against 3, whose champion it was: still one answer each."""
    indexes = chain_ratios([Link(3, 2, 1.1, 1.2), Link(2, 3, 0.9, 1.0)], [1])
    assert (indexes[2].value, indexes[3].value) == pytest.approx((1.0, 1.1))


def test_a_first_version_alone_is_its_own_root() -> None:
    """A registry of one version has a history too."""
    assert chain_ratios([], [1])[1].value == 1.0
