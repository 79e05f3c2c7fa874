"""LIBER partitions: closed by count, by time or by both, and never changed afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.contract.events import Interaction
from offline.data.log import InteractionLog
from offline.knowledge.liber.partitions import Partitions, Trigger, close_partitions
from tests.synthetic import synthetic


def log_of(*users: str, times: list[int] | None = None) -> InteractionLog:
    log = InteractionLog.sorted_by_time([], [], [])
    entries = [
        Interaction(user_id=user, item_id=f"i{at}", value=1.0, time_ms=at if times is None else times[at])
        for at, user in enumerate(users)
    ]
    return log.extended(entries, "1")[0]


def rows_of(closed: Partitions) -> list[list[int]]:
    return [closed.rows_of(at).tolist() for at in range(len(closed))]


def test_a_partition_closes_only_when_it_is_full() -> None:
    assert len(close_partitions(log_of("a", "a", "b"), Trigger(3))) == 0
    closed = close_partitions(log_of("a", "a", "b", "a", "a"), Trigger(3))
    assert rows_of(closed) == [[0, 1, 3]]
    assert closed.user.tolist() == [0]
    assert closed.closed_at.tolist() == [3]
    assert closed.start.tolist() == [0, 1, 1]


def test_partitions_are_grouped_by_user_oldest_first() -> None:
    closed = close_partitions(log_of("a", "b", "b", "a", "a", "b", "a", "b", "c"), Trigger(2))
    assert rows_of(closed) == [[0, 3], [4, 6], [1, 2], [5, 7]]
    assert closed.user.tolist() == [0, 0, 1, 1]
    assert closed.start.tolist() == [0, 2, 4, 4]
    assert closed.first_of_user().tolist() == [True, False, True, False]


@pytest.mark.parametrize("trigger", [Trigger(2), Trigger(None, 5), Trigger(2, 5)])
def test_an_empty_log_closes_nothing(trigger: Trigger) -> None:
    closed = close_partitions(log_of(), trigger)
    assert (len(closed), closed.start.tolist(), closed.closed_at.tolist()) == (0, [0], [])


def test_a_span_closes_when_the_next_interaction_comes_after_it() -> None:
    times = [0, 4, 10, 11, 12, 30]
    closed = close_partitions(log_of(*"aaaaaa", times=times), Trigger(None, 10))
    assert rows_of(closed) == [[0, 1, 2], [3, 4]]
    assert closed.closed_at.tolist() == [3, 5]  # the interaction after it closed it, and belongs to the next


def test_whichever_comes_first_closes() -> None:
    times = [0, 1, 2, 3, 20, 21, 22, 23]
    closed = close_partitions(log_of(*"aaaaaaaa", times=times), Trigger(3, 10))
    assert rows_of(closed) == [[0, 1, 2], [3], [4, 5, 6]]
    assert closed.closed_at.tolist() == [2, 4, 6]


def test_a_late_interaction_reopens_nothing() -> None:
    times = [100, 101, 102, 1, 103]
    closed = close_partitions(log_of(*"aaaaa", times=times), Trigger(3, 10))
    assert rows_of(closed) == [[0, 1, 2], [3]]  # the late one opened a cache that the next one, 102 later, closed
    assert closed.closed_at.tolist() == [2, 4]


def test_no_trigger_is_no_partition() -> None:
    with pytest.raises(ValueError, match="size, a span, or both"):
        Trigger()


@pytest.mark.parametrize("trigger", [Trigger(2), Trigger(5), Trigger(7), Trigger(None, 3), Trigger(4, 2)])
def test_a_growing_log_never_changes_a_closed_partition(tmp_path: Path, trigger: Trigger) -> None:
    log = synthetic(tmp_path, users=12, events=11).log
    generator = np.random.default_rng(trigger.size or 0)
    before = close_partitions(log, trigger)
    for step in range(5):
        entries = [
            Interaction(
                user_id=f"u{generator.integers(14)}",
                item_id=f"i{generator.integers(50)}",
                value=5.0,
                time_ms=int(generator.integers(20)),
            )
            for _ in range(20)
        ]
        log, _ = log.extended(entries, str(step))
        after = close_partitions(log, trigger)
        for user in range(len(before.start) - 1):
            old = rows_of(before)[before.start[user] : before.start[user + 1]]
            new = rows_of(after)[after.start[user] : after.start[user + 1]]
            assert old == new[: len(old)]
            since = before.closed_at[before.start[user] : before.start[user + 1]]
            np.testing.assert_array_equal(since, after.closed_at[after.start[user] :][: len(since)])
        before = after
    assert len(before) > 0


@pytest.mark.parametrize("trigger", [Trigger(3), Trigger(None, 100), Trigger(3, 100)])
def test_a_partition_closes_when_it_is_asked_for_and_what_comes_later_begins_another(trigger: Trigger) -> None:
    log = log_of("a", "b", "a")
    before = log.closing(0)
    closed = close_partitions(before, trigger)
    assert (rows_of(closed), closed.closed_at.tolist()) == ([[0, 2]], [2])
    assert rows_of(close_partitions(before.closing(0), trigger)) == [[0, 2]]  # nothing is open: nothing closes
    later, _ = before.extended(
        [Interaction(user_id="a", item_id=f"j{at}", value=1.0, time_ms=10 + at) for at in range(4)], "2"
    )
    rows = rows_of(close_partitions(later.closing(0), trigger))
    assert rows == ([[0, 2], [3, 4, 5], [6]] if trigger.size else [[0, 2], [3, 4, 5, 6]])


def test_closings_are_saved_and_move_with_the_rows(tmp_path: Path) -> None:
    log = log_of("a", "b", "a", "b", "b").closing(1)
    log.save(tmp_path / "log")
    loaded = InteractionLog.load(tmp_path / "log")
    assert loaded.closings == ((1, 5),)
    left = loaded.without(np.array([True, False, True, False, False]), {0})
    assert rows_of(close_partitions(left, Trigger(10))) == [[0, 1, 2]]
    assert left.without(np.ones(3, np.bool_), {1}).closings == ()
