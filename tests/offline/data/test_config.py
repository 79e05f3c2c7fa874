"""The [data] part of a configuration: what could not take effect is refused, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from offline.data.config import ColumnConfig, DataConfig, LabelsConfig, TableConfig
from tests.offline.data import shop


def test_short_forms() -> None:
    table = shop.config(Path("x"), interactions={"keep": {"event": "buy"}})
    assert table.interactions is not None
    assert table.interactions.paths == ("x/ratings.csv",)
    assert table.interactions.keep == {"event": ("buy",)}
    assert table.items is not None
    assert table.items.columns["title"] == ColumnConfig(type="text")
    assert DataConfig(source="movielens-1m").labels == LabelsConfig()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"separator": "::"}, 'a separator of several characters needs quote = ""'),
        ({"separator": '"'}, "cannot separate columns"),
        ({"separator": "\n"}, "cannot separate columns"),
        ({"encoding": "klingon"}, "there is no encoding 'klingon'"),
        ({"header": ["a", "a"]}, "header repeats a column name"),
        ({"paths": []}, "at least 1 item"),
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
