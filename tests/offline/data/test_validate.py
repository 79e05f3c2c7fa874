"""Checks on parsed data, before anything is computed from them."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from models.contract.schema import FeatureSchema, FieldSpec
from models.contract.times import AHEAD_MS
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
        "1 user and 2 items are described",
        "2 interactions of 1 user with 2 items",
        "likes (value above 3): 50.0%",
        "interactions per user: median 2, most 2",
        "interactions that repeat an item of their user: 0.0%",
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
        (("u\0", "i", 1.0, 1), "id_control", r"'u\x00'"),
        (("u", "i\ud800", 1.0, 1), "id_control", r"'i\ud800'"),
    ],
)
def test_unusable_rows_are_errors_and_are_named(row: Row, rule: str, value: str) -> None:
    report = validate(SCHEMA, CATALOGUE, [*GOOD, row])
    (error,) = report.errors
    assert error.startswith(f"{rule}: 1 breaks ")
    assert f"interactions, row 3: {value}" in error
    with pytest.raises(DataError, match=f"the data cannot be used: {rule}: "):
        report.raise_if_broken()


def test_repetitions_of_a_pair_are_told() -> None:
    later: Row = ("u", "i", 4.0, 9)
    assert "interactions that repeat an item of their user: 33.3%" in validate(SCHEMA, CATALOGUE, [*GOOD, later]).facts


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
    assert item.startswith("item_undescribed: 1 of 3 breaks the rule that an item of an interaction is described (")
    assert item.endswith("interactions, row 5: 'new'")
    assert user.startswith("user_undescribed: 1 of 2 ")
    assert user.endswith("interactions, row 4: 'new'")
    assert repeated.startswith("interaction_repeated: 1 breaks the rule that ")
    assert repeated.endswith("interactions, row 3: ('u', 'i', 5.0, 1)")


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
    assert "users, column 'occupation': 'pirate': 1 time | items, column 'genres': 'Polka': 7 times" in warning


def test_fields_of_users_that_nobody_describes_are_an_error() -> None:
    (error,) = validate(SCHEMA, Catalogue({}, CATALOGUE.items), GOOD).errors
    assert error.startswith("field_empty: 2 ")


def test_times_far_from_all_others_are_errors_with_their_row() -> None:
    rows: list[Row] = [("u", "ij"[at % 2], 1.0 + at % 5, 1_700_000_000_000 + at) for at in range(50)]
    assert validate(SCHEMA, CATALOGUE, rows).errors == []
    (error,) = validate(SCHEMA, CATALOGUE, [*rows, ("u", "i", 1.0, 17_000)]).errors
    assert error.startswith("time_far: 1 ")
    assert error.endswith("interactions, row 51: 17000")
    assert validate(SCHEMA, CATALOGUE, [*rows, ("u", "i", 1.0, 17_000)], timed=False).errors == []


@pytest.mark.parametrize("year", [2100, 5138])
def test_times_in_the_future_are_errors(year: int) -> None:
    moment = round((year - 1970) * 365.25 * 86_400_000)
    (error,) = validate(SCHEMA, CATALOGUE, [*GOOD, ("u", "i", 1.0, moment)]).errors
    assert error.startswith("time_future: 1 ")
    assert f"row 3: {moment}" in error


def test_a_time_of_tomorrow_is_believed() -> None:
    now = round(time.time() * 1000)
    rows: list[Row] = [("u", "i", 1.0, now), ("u", "j", 5.0, now + AHEAD_MS - 60_000)]
    assert validate(SCHEMA, CATALOGUE, rows).errors == []


@pytest.mark.parametrize(
    ("used", "described", "note"),
    [
        ("{}.0", "{}", '24 of 24 would be, written "12.0" as "12"'),
        ("{}", "{}.0", '24 of 24 would be, written "12.0" as "12"'),
        ("{:03d}", "{}", '24 of 24 would be, written "007" as "7"'),
        ("{}e+11", "{}00000000000", '24 of 24 would be, written "3e+11" as "300000000000"'),
        (" {} ", "{}", "24 of 24 would be, written without spaces around them"),
        ("B{}", "b{}", "24 of 24 would be, written in lower case"),
        ("{}e+11", "{}00000000001", "numbers of a spreadsheet, which lost their digits"),
        ("b{}", "{}", "items: '1'"),
    ],
)
def test_ids_that_never_meet_are_an_error_that_says_what_would_help(used: str, described: str, note: str) -> None:
    catalogue = Catalogue(
        CATALOGUE.users, {described.format(at): {"genres": ["War"], "year": 1999} for at in range(1, 25)}
    )
    rows: list[Row] = [("u", used.format(at), 1.0 + at % 5, at) for at in range(1, 25)]
    (error,) = validate(SCHEMA, catalogue, rows).errors
    assert error.startswith("ids_never_meet: 24 of 24 break ")
    assert f"row 1: '{used.format(1)}'" in error
    assert note in error


def test_ids_of_users_that_never_meet_are_an_error_too() -> None:
    rows: list[Row] = [("U", "i", 5.0, 1), ("U", "j", 2.0, 2)]
    (error,) = validate(SCHEMA, CATALOGUE, rows).errors
    assert error.startswith("ids_never_meet: 1 of 1 breaks ")
    assert "users: 'u': 1 of 1 would be, written in lower case" in error


def test_undescribed_ids_come_with_their_share_and_a_better_spelling() -> None:
    rows: list[Row] = [*GOOD, ("u", "I", 1.0, 9), ("u", "x", 1.0, 10)]
    (warning,) = validate(SCHEMA, CATALOGUE, rows).warnings
    assert warning.startswith("item_undescribed: 2 of 4 break ")
    assert "row 3: 'I': 1 of 2 would be, written in lower case | interactions, row 4: 'x'" in warning


def test_without_users_none_are_counted_and_every_implicit_row_is_a_like() -> None:
    facts = validate(SCHEMA, Catalogue({}, CATALOGUE.items), GOOD, implicit=True).facts
    assert facts[0] == "2 items are described, and no users: models know them by their histories alone"
    assert facts[2] == "every interaction is a like"


def test_what_follows_from_a_table_that_was_not_read_is_not_told() -> None:
    problems = Problems()
    problems.add("encoding", Place("items.csv"))
    problems.unread |= {"items"}
    report = validate(SCHEMA, Catalogue(CATALOGUE.users, {}), GOOD, problems)
    assert [line.split(":")[0] for line in report.errors] == ["encoding"]
    assert report.warnings == []


def test_what_follows_from_a_column_that_was_not_read_is_not_told() -> None:
    problems = Problems()
    problems.add("missing_column", Place("items.csv", None, "year"))
    problems.unread |= {"items.year"}
    items = {name: {"genres": features["genres"]} for name, features in CATALOGUE.items.items()}
    report = validate(SCHEMA, Catalogue(CATALOGUE.users, items), GOOD, problems)
    assert [line.split(":")[0] for line in report.errors] == ["missing_column"]


def test_ids_that_are_one_text_in_two_spellings_are_told() -> None:
    composed, decomposed = "stra\u00dfe-\u00fc", "stra\u00dfe-u\u0308"
    catalogue = Catalogue({}, {composed: {"genres": ["Drama"], "year": 1990}, "\uff11": {}, "1": {}})
    rows: list[Row] = [("u1", decomposed, 5.0, 1), ("u1", composed, 2.0, 2), ("u1", decomposed, 4.0, 3)]
    findings = validate(SCHEMA, catalogue, rows)
    (finding,) = [line for line in findings.warnings if line.startswith("id_form")]
    assert finding.endswith(r"items: 'stra\xdfe-\xfc' and 'stra\xdfe-u\u0308'")
