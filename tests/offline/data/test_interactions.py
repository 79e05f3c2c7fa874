"""Interactions in many forms: times, rows that count, repetitions, and parts that the data bring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from offline.data.arrival import append_new, first_log
from offline.data.catalogue import DataError
from offline.data.config import LabelsConfig
from offline.data.dataset import Dataset
from offline.data.log import InteractionLog
from tests.offline.data import shop

HEADER = "reader,book,stars,at\n"


def source_of(folder: Path, content: str, data: dict[str, Any] | None = None, **interactions: Any) -> Dataset:
    """A source of interactions in one file; ``data`` are settings beside those of the interactions."""
    shop.write(folder)
    (folder / "ratings.csv").write_text(content)
    return shop.source(folder, interactions=interactions, **(data or {}))


def loaded(source: Dataset, log: InteractionLog | None = None) -> InteractionLog:
    """The log of a source, or another one with what is new."""
    if log is None:
        return first_log(source, source.catalogue(), LabelsConfig(), shop.SCHEMA)
    return append_new(log, source, source.catalogue(), LabelsConfig(), shop.SCHEMA)[0]


def ids_of(log: InteractionLog) -> list[str]:
    """User and item of each row."""
    return [f"{log.user_ids[user]} {log.item_ids[item]}" for user, item in zip(log.user, log.item, strict=True)]


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        ("%d.%m.%Y %H:%M", "14.11.2023 22:13", 1_699_999_980_000),
        ("%Y%m%d", "20231114", 1_699_920_000_000),
        ("%m/%d/%y", "11/14/23", 1_699_920_000_000),
        ("%Y-%m-%d %H:%M:%S.%f", "2023-11-14 22:13:20.250", 1_700_000_000_250),
        ("%d/%b/%Y:%H:%M:%S %z", "15/Nov/2023:00:13:20 +0200", 1_700_000_000_000),
    ],
)
def test_times_of_a_format(tmp_path: Path, form: str, text: str, expected: int) -> None:
    source = source_of(tmp_path, HEADER + f"r1,b1,5,{text}\n", time_unit=None, time_format=form)
    assert [row[3] for row in source.interactions()] == [expected]


def test_a_time_of_another_format_is_named(tmp_path: Path) -> None:
    source = source_of(tmp_path, HEADER + "r1,b1,5,2023-11-14\n", time_unit=None, time_format="%d.%m.%Y")
    with pytest.raises(DataError, match=r"time_value: .*row 1, column 'at': '2023-11-14'"):
        source.interactions()


def test_numbers_of_a_parquet_file_are_read_by_a_format(tmp_path: Path) -> None:
    shop.write(tmp_path, ".parquet", ratings=shop.tables()["ratings"].with_columns(at=pl.lit(20231114)))
    source = shop.source(tmp_path, ".parquet", interactions={"time_unit": None, "time_format": "%Y%m%d"})
    assert {row[3] for row in source.interactions()} == {1_699_920_000_000}


@pytest.mark.parametrize(
    ("keep", "stars"),
    [
        ({"stars": ">= 2"}, [2, 3, 4, 5]),
        ({"stars": "> 2 and < 5"}, [3, 4]),
        ({"stars": "!= 3"}, [1, 2, 4, 5]),
        ({"stars": "==3"}, [3]),
        ({"stars": ["3", "4"]}, [3, 4]),
        ({"stars": "<= 3", "reader": "r2"}, [2, 3]),
    ],
)
def test_only_rows_that_keep_comparisons_count(tmp_path: Path, keep: dict[str, Any], stars: list[int]) -> None:
    rows = "".join(f"r{min(star, 2)},b1,{star},{1_700_000_000 + star}\n" for star in range(1, 6))
    source_of(tmp_path, HEADER + rows)
    pl.read_csv(tmp_path / "ratings.csv").write_parquet(tmp_path / "ratings.parquet")
    for suffix in (".csv", ".parquet"):
        settings = {"paths": str(tmp_path / f"ratings{suffix}"), "keep": keep}
        assert [int(row[2]) for row in shop.source(tmp_path, interactions=settings).interactions()] == stars


def test_what_is_compared_is_a_number_or_nothing(tmp_path: Path) -> None:
    content = "reader,book,stars,at,seconds\nr1,b1,5,1700000000,\nr2,b1,5,1700000000,12.5\nr3,b1,5,1700000000,long\n"
    source = source_of(tmp_path, content, keep={"seconds": ">= 1"})
    (error,) = [line for line in source.check(shop.SCHEMA).errors if line.startswith("number: ")]
    assert "row 3, column 'seconds': 'long'" in error
    (tmp_path / "ratings.csv").write_text(content.replace("long", ""))
    assert [row[0] for row in shop.source(tmp_path, interactions={"keep": {"seconds": ">= 1"}}).interactions()] == [
        "r2"
    ]


@pytest.mark.parametrize(
    ("repeated", "expected"),
    [("first", [(2.0, 1), (5.0, 4)]), ("last", [(5.0, 4), (3.0, 9)]), ("most_common", [(2.0, 5), (5.0, 4)])],
)
def test_of_repeated_pairs_one_row_counts(tmp_path: Path, repeated: str, expected: list[tuple[float, int]]) -> None:
    start = 1_700_000_000
    times = [("r1", 3, 9), ("r1", 2, 1), ("r2", 5, 4), ("r1", 2, 5)]
    content = HEADER + "".join(f"{user},b1,{stars},{start + at}\n" for user, stars, at in times)
    assert len(list(source_of(tmp_path, content).interactions())) == 4
    source = source_of(tmp_path, content, repeated=repeated)
    assert sorted((row[2], row[3] // 1000 - start) for row in source.interactions()) == sorted(expected)
    words = repeated.replace("_", " ")
    assert f"2 of 4 rows repeat a user and an item: the {words} counts" in source.check(shop.SCHEMA).facts


PARTED = "reader,book,stars,part\nr1,b1,5,test\nr1,b2,4,train\nr2,b1,1,train\nr1,b3,2,valid\nr2,b2,3,test\n"


def test_the_parts_of_the_data_make_the_order_of_the_log(tmp_path: Path) -> None:
    source = source_of(tmp_path, PARTED, time=None, time_unit=None, split_column="part")
    log = loaded(source)
    assert ids_of(log) == ["r1 b2", "r2 b1", "r1 b3", "r1 b1", "r2 b2"]
    assert log.part_ends == (2, 3, 5)
    assert "rows of the data's parts: 2 train, 1 validation, 2 test" in source.check(shop.SCHEMA).facts
    log.save(tmp_path / "log")
    assert InteractionLog.load(tmp_path / "log").part_ends == (2, 3, 5)


def test_what_arrives_after_the_parts_is_in_none(tmp_path: Path) -> None:
    log = loaded(source_of(tmp_path, PARTED, time=None, time_unit=None, split_column="part"))
    grown = loaded(source_of(tmp_path, PARTED + "r3,b3,5,train\n", time=None, time_unit=None, split_column="part"), log)
    assert (len(grown), grown.part_ends) == (6, (2, 3, 5))
    assert ids_of(grown)[-1] == "r3 b3"


def test_words_of_the_parts_are_settable_and_others_are_named(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"time": None, "time_unit": None, "split_column": "part"}
    other = PARTED.replace("valid", "dev")
    with pytest.raises(DataError, match=r"split_value: 1 .*row 4, column 'part': 'dev'"):
        source_of(tmp_path, other, **settings).interactions()
    source = source_of(tmp_path, other, **settings, split_values={"validation": "dev"})
    assert loaded(source).part_ends == (2, 3, 5)


def test_rows_without_times_lie_in_order_file_after_file(tmp_path: Path) -> None:
    shop.write(tmp_path)
    (tmp_path / "part-1.csv").write_text("reader,book,stars\nr2,b1,5\nr1,b2,4\n")
    (tmp_path / "part-2.csv").write_text("reader,book,stars\nr1,b1,3\nr2,b1,5\n")
    settings = {"paths": str(tmp_path / "part-*.csv"), "time": None, "time_unit": None}
    source = shop.source(tmp_path, interactions=settings, split_by="order")
    assert [row[3] for row in source.interactions()] == [0, 1, 2, 3]
    log = loaded(source)
    assert ids_of(log) == ["r2 b1", "r1 b2", "r1 b1", "r2 b1"]
    assert log.part_ends is None
    with (tmp_path / "part-2.csv").open("a") as file:
        file.write("r3,b3,1\n")
    assert ids_of(loaded(shop.source(tmp_path, interactions=settings, split_by="order"), log))[4:] == ["r3 b3"]


def test_a_column_may_tell_nothing_but_the_order(tmp_path: Path) -> None:
    content = HEADER + "r1,b1,5,1\nr1,b2,4,0\nr2,b3,1,0\n"
    source = source_of(tmp_path, content, {"split_by": "order"}, time_unit="order")
    assert source.check(shop.SCHEMA).errors == []
    assert ids_of(loaded(source)) == ["r1 b2", "r2 b3", "r1 b1"]
    with pytest.raises(DataError, match=r"time_value: .*row 1, column 'at': '0\.5'"):
        source_of(tmp_path, HEADER + "r1,b1,5,0.5\n", {"split_by": "order"}, time_unit="order").interactions()


def test_the_last_rows_of_each_user_are_left_out(tmp_path: Path) -> None:
    start = 1_700_000_000
    seen = [("r1", "b1", 0), ("r1", "b2", 9), ("r1", "b3", 5), ("r2", "b1", 3), ("r2", "b2", 4), ("r3", "b2", 2)]
    content = HEADER + "".join(f"{user},{book},5,{start + at}\n" for user, book, at in seen)
    log = loaded(source_of(tmp_path, content, {"split_by": "leave_last_out"}))
    assert ids_of(log) == ["r1 b1", "r3 b2", "r2 b1", "r2 b2", "r1 b3", "r1 b2"]
    assert log.part_ends == (4, 5, 6)


def test_drawn_negatives_belong_to_the_part_of_their_positive(tmp_path: Path) -> None:
    rows = [f"r{user},b{1 + (user + at) % 3}\n" for at in range(3) for user in range(1, 4)]
    settings: dict[str, Any] = {"time": None, "time_unit": None, "value": None}
    labels = LabelsConfig(kind="implicit", negatives=1)
    data = {"split_by": "leave_last_out", "labels": labels.model_dump(include={"kind", "negatives"})}
    binary = {"value_min": 0.0, "value_max": 1.0, "liked_above": 0.5, "value_center": 0.5, "value_scale": 0.5}
    source = source_of(tmp_path, "reader,book\n" + "".join(rows), data, **settings)
    log = first_log(source, source.catalogue(), labels, shop.SCHEMA.model_copy(update=binary))
    assert log.part_ends is not None
    train, validation, test = log.part_ends
    assert test == len(log)
    assert (
        (~log.sampled[:train]).sum() == (~log.sampled[train:validation]).sum() == (~log.sampled[validation:]).sum() == 3
    )


def test_a_log_of_another_split_is_not_appended_to(tmp_path: Path) -> None:
    content = HEADER + "r1,b1,5,1700000000\nr1,b2,5,1700000001\nr1,b3,5,1700000002\n"
    log = loaded(source_of(tmp_path, content))
    with pytest.raises(DataError, match="loaded with another kind of split"):
        loaded(source_of(tmp_path, content, {"split_by": "leave_last_out"}), log)
