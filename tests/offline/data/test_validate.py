"""Checks on parsed data, before anything is computed from them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from models.contract.schema import FeatureSchema, FieldSpec
from offline.data.catalogue import Catalogue, DataError
from offline.data.rules import Place, Problems
from offline.data.validate import Row, validate

SCHEMA = FeatureSchema(
    name="checks",
    user_fields=(FieldSpec(name="age", edges=(25, 45)), FieldSpec(name="occupation", vocab=("farmer", "writer"))),
    item_fields=(FieldSpec(name="genres", vocab=("Drama", "War"), slots=2), FieldSpec(name="year", edges=(1980,))),
    history_length=8,
)
CATALOGUE = Catalogue(
    users={"u": {"age": 30, "occupation": "writer"}},
    items={"i": {"genres": ["Drama"], "year": 1999}, "j": {"genres": ["War"], "year": 1950}},
)
GOOD: list[Row] = [("u", "i", 5.0, 1), ("u", "j", 2.0, 2)]


def test_good_data_yields_facts_only() -> None:
    report = validate(SCHEMA, CATALOGUE, GOOD)
    assert report.facts == [
        "1 users and 2 items are described",
        "2 interactions of 1 users with 2 items",
        "50.0% above 3",
        "interactions per user: median 2, most 2",
    ]
    assert (report.warnings, report.errors) == ([], [])
    report.raise_if_broken()


@pytest.mark.parametrize(
    ("row", "rule", "value"),
    [
        (("u", "i", float("nan"), 1), "value_number", "nan"),
        (("u", "i", float("-inf"), 1), "value_number", "-inf"),
        (("u", "i", 0.5, 1), "value_range", "0.5"),
        (("u", "i", 5.5, 1), "value_range", "5.5"),
        (("u", "i", 1.0, -1), "time_negative", "-1"),
        (("u", "i", 1.0, 2**53), "time_value", str(2**53)),
        (("", "i", 1.0, 1), "id_empty", "''"),
        (("u", "", 1.0, 1), "id_empty", "''"),
        (("u", "é" * 129, 1.0, 1), "id_long", "'é"),
    ],
)
def test_unusable_rows_are_errors_and_are_named(row: Row, rule: str, value: str) -> None:
    report = validate(SCHEMA, CATALOGUE, [*GOOD, row])
    (error,) = report.errors
    assert error.startswith(f"{rule}: 1 against")
    assert f"interactions, row 3: {value}" in error
    with pytest.raises(DataError, match=f"the data cannot be used: {rule}: "):
        report.raise_if_broken()


def test_a_source_may_tell_where_rows_stand() -> None:
    report = validate(SCHEMA, CATALOGUE, [*GOOD, ("u", "i", 9.0, 1)], place=lambda number: Place("x.csv", number + 10))
    assert "x.csv, row 12: 9.0" in report.errors[0]


def test_no_rows_are_an_error() -> None:
    with pytest.raises(DataError, match=r"no_rows: 1 .*: interactions"):
        validate(SCHEMA, CATALOGUE, []).raise_if_broken()


def test_a_table_that_could_not_be_read_is_not_called_empty_as_well() -> None:
    problems = Problems()
    problems.add("missing_column", Place("interactions"))
    assert not any("no_rows" in line for line in validate(SCHEMA, CATALOGUE, [], problems).errors)


def test_without_a_table_of_users_nobody_is_called_undescribed() -> None:
    assert validate(SCHEMA, replace(CATALOGUE, users={}), GOOD).warnings == []


def test_repetitions_and_undescribed_ids_are_warnings() -> None:
    more: list[Row] = [GOOD[0], ("new", "i", 1.0, 9), ("u", "new", 1.0, 9), ("u", "new", 2.0, 10)]
    report = validate(SCHEMA, CATALOGUE, [*GOOD, *more])
    assert report.errors == []
    item, user, repeated = report.warnings
    assert item.startswith("item_undescribed: 1 ")
    assert item.endswith("interactions, row 5: 'new'")
    assert user.startswith("user_undescribed: 1 ")
    assert user.endswith("interactions, row 4: 'new'")
    assert repeated.startswith("interaction_repeated: 1 ")
    assert repeated.endswith("interactions, row 3: ('u', 'i', 5.0, 1)")


@pytest.mark.parametrize("value", [1.0, 5.0])
def test_one_kind_of_label_is_a_warning(value: float) -> None:
    rows: list[Row] = [("u", "i", value, 1), ("u", "j", value, 2)]
    (warning,) = validate(SCHEMA, CATALOGUE, rows).warnings
    assert warning.startswith("one_label: ")
    assert validate(SCHEMA, CATALOGUE, rows, one_label_is_fine=True).warnings == []


def test_a_field_that_nobody_fills_is_an_error_and_unknown_values_are_counted() -> None:
    items = {f"k{at}": {"genres": ["Polka", "War", f"rare{at}"], "year": None} for at in range(7)}
    odd = Catalogue(
        users={"u": {"age": "old", "occupation": "writer"}, "v": {"age": None, "occupation": "pirate"}},
        items={**CATALOGUE.items, **items},
    )
    report = validate(SCHEMA, odd, GOOD)
    (error,) = report.errors
    assert error.startswith("field_empty: 1 ")
    assert error.endswith("users, column 'age'")
    (warning,) = report.warnings
    assert warning.startswith("field_unknown: 9 ")
    assert "users, column 'occupation': 'pirate': 1 times | items, column 'genres': 'Polka': 7 times" in warning


def test_fields_of_users_that_nobody_describes_are_an_error() -> None:
    (error,) = validate(SCHEMA, Catalogue({}, CATALOGUE.items), GOOD).errors
    assert error.startswith("field_empty: 2 ")


def test_ids_that_are_one_text_in_two_spellings_are_told() -> None:
    composed, decomposed = "stra\u00dfe-\u00fc", "stra\u00dfe-u\u0308"
    catalogue = Catalogue({}, {composed: {"genres": ["Drama"], "year": 1990}, "\uff11": {}, "1": {}})
    rows: list[Row] = [("u1", decomposed, 5.0, 1), ("u1", composed, 2.0, 2), ("u1", decomposed, 4.0, 3)]
    findings = validate(SCHEMA, catalogue, rows)
    (finding,) = [line for line in findings.warnings if line.startswith("id_form")]
    assert finding.endswith(r"items: 'stra\xdfe-\xfc' and 'stra\xdfe-u\u0308'")
