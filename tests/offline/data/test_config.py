"""The [data] part of a configuration: what could not take effect is refused, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from models.contract.schema import fingerprint
from offline.data.config import ColumnConfig, DataConfig, LabelsConfig, TableConfig
from offline.data.row_config import ValueCondition
from tests.offline.data import shop


def test_short_forms() -> None:
    table = shop.config(Path("x"), interactions={"keep": {"event": "buy"}})
    assert table.interactions is not None
    assert table.interactions.paths == ("x/ratings.csv",)
    assert table.interactions.keep == {"event": ("buy",)}
    assert table.items is not None
    assert table.items.columns["title"] == ColumnConfig(type="text")
    assert DataConfig(source="movielens-1m").labels == LabelsConfig()
    compared = shop.config(Path("x"), interactions={"keep": {"stars": ">= 1 and <5", "event": [">= 1"]}}).interactions
    assert compared is not None
    assert compared.keep == {
        "stars": (ValueCondition(operator=">=", bound=1), ValueCondition(operator="<", bound=5)),
        "event": (">= 1",),
    }


def test_settings_that_came_later_change_no_fingerprint_while_they_have_their_defaults() -> None:
    """Fingerprints as they were before there were such settings."""
    settings = shop.config(Path("x"), interactions={"keep": {"event": "buy"}}).model_dump(
        mode="json", exclude={"texts"}
    )
    assert fingerprint(settings) == "05e29709f40ac39f"
    movielens = DataConfig(source="movielens-100k").model_dump(mode="json", exclude={"texts"})
    assert fingerprint(movielens) == "edbe38ecffe420f7"


def test_settings_that_have_an_effect_change_the_fingerprint() -> None:
    changes: list[dict[str, Any]] = [
        {"escape": "\\"}, {"bad_rows_at_most": 0.1}, {"repeated": "last"}, {"keep": {"stars": ">= 1"}},
        {"time_unit": None, "time_format": "%Y"}, {"split_column": "part"},
        {"split_column": "part", "split_values": {"test": "t"}},
    ]  # fmt: skip
    dumps = [shop.config(Path("x"), interactions=changed).model_dump(mode="json") for changed in ({}, *changes)]
    dumps.append(shop.config(Path("x"), split_by="leave_last_out").model_dump(mode="json"))
    assert len({fingerprint(dump) for dump in dumps}) == len(dumps)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"separator": "::"}, 'a separator of several characters needs quote = ""'),
        ({"separator": '"'}, "cannot separate columns"),
        ({"separator": "\n"}, "cannot separate columns"),
        ({"encoding": "klingon"}, "there is no encoding 'klingon'"),
        ({"header": ["a", "a"]}, "header repeats a column name"),
        ({"paths": []}, "at least 1 item"),
        ({"escape": ","}, "',' cannot be an escape"),
        ({"escape": '"'}, "cannot be an escape"),
        ({"bad_rows_at_most": 2}, "less than or equal to 1"),
        ({"delimiter": ";"}, "Extra inputs are not permitted"),
    ],
)
def test_impossible_tables_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        TableConfig.model_validate({"paths": "a.csv", **settings})


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"interactions": None}, "needs the tables interactions and items"),
        ({"items": None}, "needs the tables interactions and items"),
        ({"interactions": {"value": None}}, r"threshold labels need interactions\.value"),
        ({"labels": {"kind": "binary"}, "interactions": {"value": None}}, r"binary labels need interactions\.value"),
        ({"labels": {"kind": "implicit"}}, "implicit labels take no value column"),
        ({"labels": {"negatives": 3}}, "negatives: only for implicit labels"),
        ({"source": "movielens-1m"}, "brings its own interactions"),
        ({"texts": {"item": "{titel}"}}, r"texts\.item: there is no column 'titel'; columns: subjects, title, year"),
        ({"texts": {"topics_column": "tags"}}, r"texts\.topics_column: there is no column 'tags'"),
        ({"items": {"columns": {"title": {"separator": ";"}}}}, 'separator: only for type "list"'),
        ({"interactions": {"time_format": "%Y"}}, "time needs either time_unit or time_format"),
        ({"interactions": {"time_unit": None}}, "time needs either time_unit or time_format"),
        ({"interactions": {"time": None}}, "time_unit: takes no effect without time"),
        ({"interactions": {"time": None, "time_unit": None}}, 'set split_by = "order" or "leave_last_out"'),
        ({"interactions": {"time_unit": "order"}}, "without times there is no split by time"),
        ({"interactions": {"time_unit": None, "time_format": "%d %H"}}, "has no year"),
        ({"interactions": {"time_unit": None, "time_format": "%Y %Q"}}, "time_format '%Y %Q'"),
        ({"interactions": {"keep": {"stars": ">= one"}}}, "is no comparison"),
        ({"interactions": {"keep": {"stars": []}}}, "at least 1 item"),
        ({"interactions": {"split_values": {"test": "t"}}}, "takes no effect without split_column"),
        ({"interactions": {"split_column": "p", "split_values": {"test": "train"}}}, "of two parts: 'train'"),
        ({"interactions": {"split_column": "p"}, "split_by": "leave_last_out"}, "takes no effect beside"),
        ({"split_by": "order"}, "is for interactions without times"),
    ],
)
def test_contradictions_are_refused(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        shop.config(Path("x"), **changed)


def test_columns_that_only_the_files_know_are_checked_later() -> None:
    shop.config(Path("x"), items={"columns": {}}, texts={"item": "{titel}"})


def test_labels_against_the_schema() -> None:
    assert LabelsConfig().contradictions(shop.SCHEMA) == []
    contradictions = LabelsConfig(kind="implicit").contradictions(shop.SCHEMA)
    assert contradictions == [
        "implicit labels need value_min = 0, it is 1",
        "implicit labels need value_max = 1, it is 5",
        "implicit labels need liked_above from 0 to below 1, it is 3",
    ]
