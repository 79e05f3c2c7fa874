"""Streams into Parquet: each entry once, whatever happens in between, and what was trimmed unread is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import redis

from models.contract.events import Interaction
from models.contract.exposures import ArmTaken, Exposure
from models.contract.ids import NOBODY
from offline.data.files import read_json, write_json
from offline.publish import archive as archives
from offline.publish import streams
from offline.publish.archive import add_interactions, archive, of_experiment, read_exposures, read_interactions
from offline.publish.connection import Store


def exposure(at: int, *arms: tuple[str, str], **more: Any) -> Exposure:
    return Exposure.model_validate(
        {
            "request_id": f"r{at}", "user_id": "u", "unit": f"u{at % 3}", "time_ms": at, "release": "r",
            "arms": [ArmTaken(layer="l", experiment=name, arm=arm) for name, arm in arms], "knowledge": True,
            "degraded": (), "latency_ms": 1.5, "candidates": 2, "items": ("a", "b"), "scores": (0.5, 0.25),
            "history_events": 0, "history_digest": "0", **more,
        }
    )  # fmt: skip


def add(store: Store, *entries: Exposure | Interaction) -> None:
    for entry in entries:
        key = store.keys.exposures if isinstance(entry, Exposure) else store.keys.interactions
        fields: dict[Any, Any] = {**entry.to_stream()}
        store.redis.xadd(key, fields)


def ids(folder: Path) -> list[str]:
    return read_exposures(folder)["request_id"].to_list()


def test_nothing_is_there_yet(store: Store, tmp_path: Path) -> None:
    archived = archive(store, tmp_path, NOBODY)
    assert all((stream.added, stream.refused, stream.lost) == (0, 0, 0) for stream in archived.values())
    assert ids(tmp_path) == []
    assert read_interactions(tmp_path).is_empty()


def test_every_entry_is_taken_once(store: Store, tmp_path: Path) -> None:
    for start in (0, 5, 7):
        add(store, *(exposure(at) for at in range(start, start + 5 if start != 5 else 7)))
        assert archive(store, tmp_path, NOBODY)["exposures"].added == (5 if start != 5 else 2)
        assert archive(store, tmp_path, NOBODY)["exposures"].added == 0
    assert ids(tmp_path) == [f"r{at}" for at in range(12)]


def test_columns_come_back(store: Store, tmp_path: Path) -> None:
    drawn = exposure(1, ("e", "a"), ("f", "b"), propensities=(0.5, 1.0), context={"page": "home"}, held_out=True)
    add(store, drawn, exposure(2, ("e", "b"), teams=("a", "b"), shadow=(0.1, 0.2), shadow_arm="a", degraded=("x",)))
    add(store, Interaction(user_id="u", item_id="a", value=4.0, time_ms=9, request_id="r1"))
    archive(store, tmp_path, NOBODY)
    first, second = read_exposures(tmp_path).to_dicts()
    assert (first["propensities"], first["teams"], first["shadow"]) == ([0.5, 1.0], None, None)
    assert (first["context"], first["held_out"], first["experiments"]) == ('{"page": "home"}', True, ["e", "f"])
    assert (second["teams"], second["shadow"], second["degraded"]) == (["a", "b"], [0.1, 0.2], ["x"])
    assert of_experiment(read_exposures(tmp_path), "e").select("arm", "how").rows() == [("a", "split"), ("b", "split")]
    assert of_experiment(read_exposures(tmp_path), "f").select("request_id", "arm").rows() == [("r1", "b")]
    assert of_experiment(read_exposures(tmp_path), "g").is_empty()
    assert read_interactions(tmp_path).rows() == [("r1", "u", "a", "rating", 4.0, 9)]


def test_interactions_from_before_come_first_and_are_replaced(store: Store, tmp_path: Path) -> None:
    add(store, Interaction(user_id="u", item_id="a", value=4.0, time_ms=9))
    archive(store, tmp_path, NOBODY)
    row = {"request_id": None, "unit": "u", "item": "old", "type": "rating", "value": 3.0, "time_ms": 1}
    for _ in range(2):
        add_interactions(tmp_path, pl.DataFrame([row], archives.INTERACTIONS))
    assert read_interactions(tmp_path)["item"].to_list() == ["old", "a"]


def test_parts_that_lack_a_newer_column_are_read(store: Store, tmp_path: Path) -> None:
    add(store, exposure(1))
    archive(store, tmp_path, NOBODY)
    (part,) = (tmp_path / "exposures").glob("part-*")
    pl.read_parquet(part).drop("unshown").write_parquet(part)
    add(store, exposure(2, unshown=("c",), unshown_scores=(0.1,)))
    archive(store, tmp_path, NOBODY)
    assert read_exposures(tmp_path)["unshown"].to_list() == [None, ["c"]]
    assert read_exposures(tmp_path)["unshown_scores"].to_list() == [None, [0.1]]


def test_a_request_that_was_written_twice_counts_once(store: Store, tmp_path: Path) -> None:
    add(store, exposure(1), exposure(1), exposure(2))
    assert archive(store, tmp_path, NOBODY)["exposures"].added == 3
    assert ids(tmp_path) == ["r1", "r2"]


def test_a_run_that_was_stopped_before_its_mark_repeats_nothing(store: Store, tmp_path: Path) -> None:
    add(store, exposure(1), Interaction(user_id="u", item_id="a", value=1.0, time_ms=1))
    archive(store, tmp_path, NOBODY)
    for stream in ("exposures", "interactions"):
        (tmp_path / stream / "mark.json").unlink()
    add(store, exposure(2), Interaction(user_id="u", item_id="b", value=1.0, time_ms=2))
    archive(store, tmp_path, NOBODY)
    assert ids(tmp_path) == ["r1", "r2"]
    assert read_interactions(tmp_path)["item"].to_list() == ["a", "b"]


def test_what_was_trimmed_unread_is_counted(store: Store, tmp_path: Path) -> None:
    add(store, *(exposure(at) for at in range(10)))
    archive(store, tmp_path, NOBODY)
    add(store, *(exposure(at) for at in range(10, 30)))
    store.redis.xtrim(store.keys.exposures, maxlen=5, approximate=False)
    archived = archive(store, tmp_path, NOBODY)["exposures"]
    assert (archived.added, archived.lost) == (5, 15)
    assert archive(store, tmp_path, NOBODY)["exposures"].lost == 0


def test_what_was_trimmed_before_the_first_run_is_counted_too(store: Store, tmp_path: Path) -> None:
    archive(store, tmp_path, NOBODY)  # there is no stream yet
    add(store, *(exposure(at) for at in range(10)))
    store.redis.xtrim(store.keys.exposures, maxlen=4, approximate=False)
    archived = archive(store, tmp_path, NOBODY)["exposures"]
    assert (archived.added, archived.lost) == (4, 6)
    archived = archive(store, tmp_path / "another", NOBODY)["exposures"]
    assert (archived.added, archived.lost) == (4, 6)


def test_the_split_of_an_arm_comes_back(store: Store, tmp_path: Path) -> None:
    taken = ArmTaken(layer="l", experiment="e", arm="a", split={"a": 5000, "b": 5000})
    other = ArmTaken(layer="m", experiment="f", arm="x", how="sticky")
    add(store, exposure(1).model_copy(update={"arms": (taken, other)}))
    archive(store, tmp_path, NOBODY)
    frame = read_exposures(tmp_path)
    assert of_experiment(frame, "e")["split"].to_list() == ['{"a": 5000, "b": 5000}']
    assert of_experiment(frame, "f").select("how", "split").rows() == [("sticky", "{}")]
    assert of_experiment(frame.with_columns(splits=None), "e")["split"].to_list() == [None]


def test_what_is_not_understood_is_counted(store: Store, tmp_path: Path) -> None:
    store.redis.xadd(store.keys.exposures, {"v": "1", "exposure": "{}"})
    add(store, exposure(1))
    archived = archive(store, tmp_path, NOBODY)["exposures"]
    assert (archived.added, archived.refused, archived.lost) == (1, 1, 0)


def test_another_server_starts_anew(store: Store, tmp_path: Path) -> None:
    add(store, exposure(1))
    archive(store, tmp_path, NOBODY)
    mark = tmp_path / "exposures" / "mark.json"
    write_json(mark, {**read_json(mark), "installation": "another", "mark": "99999999999999-0"})
    add(store, exposure(2))
    archived = archive(store, tmp_path, NOBODY)["exposures"]
    assert (archived.added, archived.lost) == (2, 0)
    assert ids(tmp_path) == ["r1", "r2"]


def test_long_streams_become_several_parts(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_ROWS", 4)
    monkeypatch.setattr(streams, "PAGE", 3)
    add(store, *(exposure(at) for at in range(10)))
    assert archive(store, tmp_path, NOBODY)["exposures"].added == 10
    assert len(list((tmp_path / "exposures").glob("*.parquet"))) == 3
    assert ids(tmp_path) == [f"r{at}" for at in range(10)]


def test_a_stream_of_another_kind_is_an_error(store: Store, tmp_path: Path) -> None:
    store.redis.set(store.keys.exposures, "no stream")
    with pytest.raises(redis.ResponseError):
        archive(store, tmp_path, NOBODY)


def test_what_nobody_left_is_left_out_and_counted(store: Store, tmp_path: Path) -> None:
    """Earlier services took the ids of nobody for a unit, with everybody's clicks."""
    add(store, exposure(1), exposure(2, unit="NULL"), exposure(3, unit=" "))
    add(store, *(Interaction(user_id=user, item_id="a", value=1, time_ms=9) for user in ("u", "null", "0")))
    add(store, Interaction(user_id="u", item_id="NaN", value=1, time_ms=9))
    archived = archive(store, tmp_path / "usual", NOBODY)
    assert {name: (stream.added, stream.of_nobody) for name, stream in archived.items()} == {
        "exposures": (1, 2),
        "interactions": (2, 2),
    }
    assert read_interactions(tmp_path / "usual")["unit"].to_list() == ["u", "0"]
    assert archive(store, tmp_path / "own", ["0"])["interactions"].of_nobody == 1
