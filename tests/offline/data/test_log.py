"""The interaction log: order, appending, and what survives on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.contract.events import Interaction
from offline.data.log import InteractionLog, UserIndex

ROWS = [
    ("u2", "b", 1.0, 30), ("u1", "b", 4.5, 20), ("u1", "a", 5.0, 20), ("u2", "a", 3.0, 20), ("u9", "z", 2.0, 10),
]  # fmt: skip

Seen = tuple[str, str, float, int]


@pytest.fixture
def log() -> InteractionLog:
    return InteractionLog.sorted_by_time(ROWS, ["u1", "u2"], ["a", "b", "c"])


def seen(log: InteractionLog) -> list[Seen]:
    return [
        (log.user_ids[user], log.item_ids[item], value, time_ms)
        for user, item, value, time_ms in zip(
            log.user.tolist(), log.item.tolist(), log.value.tolist(), log.time_ms.tolist(), strict=True
        )
    ]


def event(user: str, item: str, value: float, time_ms: int) -> Interaction:
    return Interaction(user_id=user, item_id=item, value=value, time_ms=time_ms)


def test_the_first_load_sorts_by_time_user_and_item(log: InteractionLog) -> None:
    assert seen(log) == [
        ("u9", "z", 2.0, 10), ("u1", "a", 5.0, 20), ("u1", "b", 4.5, 20), ("u2", "a", 3.0, 20), ("u2", "b", 1.0, 30),
    ]  # fmt: skip
    assert (log.user_ids, log.item_ids) == (("u1", "u2", "u9"), ("a", "b", "c", "z"))
    assert log.stream_mark == "0-0"


def test_the_order_of_rows_in_the_source_does_not_matter(log: InteractionLog) -> None:
    again = InteractionLog.sorted_by_time(ROWS[::-1], ["u1", "u2"], ["a", "b", "c"])
    assert seen(again) == seen(log)


def test_an_empty_log() -> None:
    empty = InteractionLog.sorted_by_time([], [], [])
    assert len(empty) == 0
    grown, added = empty.extended([event("u", "i", 1.0, 5)], "1-0")
    assert (seen(grown), added) == ([("u", "i", 1.0, 5)], 1)


def test_streamed_interactions_are_appended_in_stream_order(log: InteractionLog) -> None:
    grown, added = log.extended([event("u2", "c", 2.0, 99), event("u1", "c", 3.0, 5)], "7-1")
    assert added == 2
    assert seen(grown) == [*seen(log), ("u2", "c", 2.0, 99), ("u1", "c", 3.0, 5)]
    assert grown.stream_mark == "7-1"
    assert (grown.user_ids, grown.item_ids) == (log.user_ids, log.item_ids)
    assert [array.dtype for array in (grown.user, grown.item, grown.value, grown.time_ms)] == [
        array.dtype for array in (log.user, log.item, log.value, log.time_ms)
    ]


def test_new_users_and_items_follow_the_known_ones(log: InteractionLog) -> None:
    grown, _ = log.extended(
        [event("new", "a", 1.0, 50), event("u1", "fresh", 1.0, 51), event("new", "fresh", 2, 52)], "1"
    )
    assert grown.user_ids == (*log.user_ids, "new")
    assert grown.item_ids == (*log.item_ids, "fresh")
    assert seen(grown)[-3:] == [("new", "a", 1.0, 50), ("u1", "fresh", 1.0, 51), ("new", "fresh", 2.0, 52)]


def test_repetitions_are_dropped(log: InteractionLog) -> None:
    entries = [
        event("u1", "b", 4.5, 20),  # held already
        event("u1", "b", 4.5, 21),  # another time
        event("u1", "b", 4.0, 20),  # another value
        event("new", "new", 1.1, 60),
        event("new", "new", 1.1, 60),  # twice in one batch
    ]
    grown, added = log.extended(entries, "5-0")
    assert added == 3
    assert len(grown) == len(log) + 3
    again, more = grown.extended(entries, "6-0")
    assert (more, seen(again), again.stream_mark) == (0, seen(grown), "6-0")


def test_times_of_this_century_and_odd_values_survive_appending(log: InteractionLog) -> None:
    late = 2**53 - 1
    grown, _ = log.extended([event("u1", "a", 0.1, late)], "1")
    assert int(grown.time_ms[-1]) == late
    assert grown.value[-1] == np.float32(0.1)
    assert grown.extended([event("u1", "a", 0.1, late)], "2")[1] == 0


def test_appending_leaves_the_old_log_alone(log: InteractionLog) -> None:
    before = seen(log)
    log.extended([event("new", "fresh", 1.0, 1)], "1")
    assert seen(log) == before
    assert log.user_ids == ("u1", "u2", "u9")


def test_a_log_reads_back(log: InteractionLog, tmp_path: Path) -> None:
    grown, _ = log.extended([event("zoë {x}", "ü", 0.1, 2**52)], "12-3")
    grown.save(tmp_path / "log.npz")
    read = InteractionLog.load(tmp_path / "log.npz")
    assert (read.user_ids, read.item_ids, read.stream_mark) == (grown.user_ids, grown.item_ids, "12-3")
    for name in ("user", "item", "value", "time_ms"):
        assert getattr(read, name).dtype == getattr(grown, name).dtype
        np.testing.assert_array_equal(getattr(read, name), getattr(grown, name))
    assert [path.name for path in tmp_path.iterdir()] == ["log.npz"]


def test_rows_by_user(log: InteractionLog) -> None:
    index = log.by_user()
    assert [index.of_user(user).tolist() for user in range(3)] == [[1, 2], [3, 4], [0]]
    assert index.position.tolist() == [0, 0, 1, 0, 1]


def test_users_without_rows_have_none() -> None:
    index = UserIndex.of(InteractionLog.sorted_by_time([("b", "i", 1.0, 1)], ["a", "b", "c"], ["i"]))
    assert [index.of_user(user).tolist() for user in range(3)] == [[], [0], []]


def test_rows_by_user_of_interleaved_users() -> None:
    generator = np.random.default_rng(0)
    rows = [(f"u{generator.integers(7)}", f"i{generator.integers(9)}", 1.0, at) for at in range(200)]
    log = InteractionLog.sorted_by_time(rows, [], [])
    index = log.by_user()
    for row, user in enumerate(log.user.tolist()):
        assert index.position[row] == (log.user[:row] == user).sum()
        assert index.of_user(user)[index.position[row]] == row
