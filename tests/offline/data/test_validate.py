"""Checks on a data set before anything is computed from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from offline.data.catalogue import Catalogue, DataError
from offline.data.validate import Row, validate
from tests.synthetic import SCHEMA, synthetic

CATALOGUE = Catalogue(
    users={"u": {"age": 30, "occupation": "writer"}},
    items={"i": {"genres": ["Drama"], "year": 1999}, "j": {"genres": ["War"], "year": 1950}},
)
GOOD: list[Row] = [("u", "i", 5.0, 1), ("u", "j", 2.0, 2)]


def test_good_data_yields_facts_only() -> None:
    found = validate(SCHEMA, CATALOGUE, GOOD)
    assert found.facts == [
        "2 interactions of 1 users with 2 items",
        "50.0% above 3",
        "interactions per user: median 2, most 2",
    ]
    assert (found.warnings, found.errors) == ([], [])
    found.raise_if_broken()


@pytest.mark.parametrize(
    ("row", "error"),
    [
        (("u", "i", float("nan"), 1), "some values are not finite"),
        (("u", "i", float("-inf"), 1), "some values are not finite"),
        (("u", "i", 1.0, -1), "some times are negative"),
        (("", "i", 1.0, 1), "1 ids are empty or longer than 256 bytes"),
        (("u", "é" * 129, 1.0, 1), "1 ids are empty or longer than 256 bytes"),
    ],
)
def test_unusable_rows_are_errors(row: Row, error: str) -> None:
    found = validate(SCHEMA, CATALOGUE, [*GOOD, row])
    assert found.errors == [error]
    with pytest.raises(DataError, match=f"the data cannot be used: {error}"):
        found.raise_if_broken()


def test_no_rows_are_an_error() -> None:
    with pytest.raises(DataError, match="there are no interactions"):
        validate(SCHEMA, CATALOGUE, []).raise_if_broken()


def test_repetitions_and_undescribed_ids_are_warnings() -> None:
    found = validate(SCHEMA, CATALOGUE, [*GOOD, GOOD[0], ("new", "i", 1.0, 9), ("u", "new", 1.0, 9)])
    assert found.errors == []
    assert found.warnings == [
        "1 interactions are exact repetitions",
        "1 users have interactions but no description",
        "1 items have interactions but no description",
    ]


def test_a_field_that_some_do_not_fill_is_a_warning_and_one_that_nobody_fills_an_error() -> None:
    odd = Catalogue(
        users={"u": {"age": "old", "occupation": "writer"}, "v": {"age": None, "occupation": "pirate"}},
        items={**CATALOGUE.items, "k": {"genres": ["Polka"], "year": 1999}},
    )
    found = validate(SCHEMA, odd, GOOD)
    assert found.errors == ["no user has a value that field 'age' understands"]
    assert found.warnings == [
        "1 users without a value that field 'occupation' understands",
        "1 items without a value that field 'genres' understands",
    ]


def test_the_synthetic_data_are_good(tmp_path: Path) -> None:
    data = synthetic(tmp_path)
    rows = [
        (data.log.user_ids[user], data.log.item_ids[item], float(value), int(time_ms))
        for user, item, value, time_ms in zip(
            data.log.user, data.log.item, data.log.value, data.log.time_ms, strict=True
        )
    ]
    found = validate(SCHEMA, data.catalogue, rows)
    assert (found.warnings, found.errors) == ([], [])
