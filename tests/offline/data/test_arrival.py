"""How interactions enter the log, for every kind of labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.contract.events import Interaction
from offline.data.arrival import first_log, read_again, streamed
from offline.data.catalogue import DataError
from offline.data.config import LabelsConfig
from offline.data.log import InteractionLog
from tests.offline.data import shop

BINARY = {"value_min": 0.0, "value_max": 1.0, "liked_above": 0.5, "value_center": 0.5, "value_scale": 0.5}
IMPLICIT_SCHEMA = shop.SCHEMA.model_copy(update={**BINARY, "history_types": ("click",)})
IMPLICIT: dict[str, Any] = {"labels": {"kind": "implicit", "negatives": 1}, "interactions": {"value": None}}


def load(folder: Path, **changed: Any) -> InteractionLog:
    source = shop.source(folder, **changed)
    schema = IMPLICIT_SCHEMA if changed else shop.SCHEMA
    return first_log(source, source.catalogue(), shop.config(folder, **changed).labels, schema)


def test_the_first_load_keeps_the_order_of_the_catalogue(tmp_path: Path) -> None:
    shop.write(tmp_path)
    log = load(tmp_path)
    assert (log.user_ids, log.item_ids) == (("r1", "r2", "r3"), ("b1", "b2", "b3"))
    assert log.time_ms.tolist() == [1000 * at for _, _, _, at in shop.RATINGS]
    assert not log.sampled.any()


def test_broken_data_make_no_log(tmp_path: Path) -> None:
    shop.write(tmp_path)
    with (tmp_path / "ratings.csv").open("a") as file:
        file.write("r1,b1,9,1700000000\n")
    with pytest.raises(DataError, match=r"value_range: .*row 6: 9\.0"):
        load(tmp_path)


def test_files_that_have_grown_are_read_again(tmp_path: Path) -> None:
    shop.write(tmp_path)
    log, _, _ = streamed(load(tmp_path), [clicked("r9", "b2", 4.0, 1, "rating")], "5-0", LabelsConfig(), shop.SCHEMA)
    with (tmp_path / "ratings.csv").open("a") as file:
        file.write("r3,b1,5,1600000000\nr3,b2,4,1600000001\n")
    with (tmp_path / "books.csv").open("a") as file:
        file.write("b4,New,2024,Travel\n")
    source = shop.source(tmp_path)
    grown, added = read_again(log, source, source.catalogue(), LabelsConfig(), shop.SCHEMA)
    assert (added, len(grown), grown.stream_mark) == (2, len(log) + 2, "5-0")
    assert grown.item_ids == (*log.item_ids, "b4")
    assert grown.time_ms[-2:].tolist() == [1600000000000, 1600000001000]
    assert read_again(grown, source, source.catalogue(), LabelsConfig(), shop.SCHEMA)[1] == 0


def clicked(user: str, item: str, value: float, time_ms: int, kind: str = "click") -> Interaction:
    return Interaction(user_id=user, item_id=item, type=kind, value=value, time_ms=time_ms)


def test_streams_are_filtered_by_type_and_value(tmp_path: Path) -> None:
    shop.write(tmp_path)
    entries = [
        clicked("r1", "b3", 4.0, 1, "rating"),
        clicked("r1", "b3", 4.0, 1, "view"),
        clicked("r1", "b3", 9.0, 1, "rating"),
        clicked("r1", "b3", 4.0, 1, "rating"),
    ]
    log, added, refused = streamed(load(tmp_path), entries, "4-0", LabelsConfig(), shop.SCHEMA)
    assert (len(log), added, refused, log.stream_mark) == (6, 1, 1, "4-0")


@pytest.mark.parametrize("page", [1, 2, 10])
def test_implicit_feedback_gets_its_negatives_as_it_arrives(tmp_path: Path, page: int) -> None:
    shop.write(tmp_path)
    log = load(tmp_path, **IMPLICIT)
    labels = shop.config(tmp_path, **IMPLICIT).labels
    assert log.value[~log.sampled].tolist() == [1.0] * 5
    assert 0 < log.sampled.sum() <= 5
    entries = [clicked("r3", "b1", 1.0, 7), clicked("new", "b2", 1.0, 5), clicked("r3", "b1", 1.0, 7)]
    paged, added = log, 0
    for at in range(0, len(entries), page):
        paged, new, _ = streamed(paged, entries[at : at + page], "1", labels, IMPLICIT_SCHEMA)
        added += new
    assert added == 2
    assert paged.sampled[len(log) :].tolist() == [True, False, True, False]
    again, more, _ = streamed(paged, entries, "2", labels, IMPLICIT_SCHEMA)
    assert (more, len(again)) == (0, len(paged))
