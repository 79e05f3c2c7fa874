"""LIBER partitions: closed only when full, and never changed afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.contract.events import Interaction
from offline.data.log import InteractionLog
from offline.knowledge.liber.partitions import close_partitions
from tests.synthetic import synthetic


def log_of(*users: str) -> InteractionLog:
    return InteractionLog.sorted_by_time([(user, f"i{at}", 1.0, at) for at, user in enumerate(users)], [], [])


def test_a_partition_closes_only_when_it_is_full() -> None:
    assert len(close_partitions(log_of("a", "a", "b"), 3)) == 0
    closed = close_partitions(log_of("a", "a", "b", "a", "a"), 3)
    assert closed.rows.tolist() == [[0, 1, 3]]
    assert closed.user.tolist() == [0]
    assert closed.closed_at.tolist() == [3]
    assert closed.start.tolist() == [0, 1, 1]


def test_partitions_are_grouped_by_user_oldest_first() -> None:
    closed = close_partitions(log_of("a", "b", "b", "a", "a", "b", "a", "b", "c"), 2)
    assert closed.rows.tolist() == [[0, 3], [4, 6], [1, 2], [5, 7]]
    assert closed.user.tolist() == [0, 0, 1, 1]
    assert closed.start.tolist() == [0, 2, 4, 4]


def test_an_empty_log_closes_nothing() -> None:
    closed = close_partitions(log_of(), 2)
    assert (len(closed), closed.start.tolist(), closed.closed_at.tolist()) == (0, [0], [])


def test_visible_are_those_that_earlier_interactions_closed() -> None:
    closed = close_partitions(log_of(*"aaaaaaab"), 3)  # a: 7 interactions, 2 partitions
    earlier = np.arange(9)
    assert closed.visible(np.zeros(9, np.int64), earlier).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert closed.visible(np.ones(3, np.int64), np.array([0, 1, 50])).tolist() == [0, 0, 0]


@pytest.mark.parametrize("size", [2, 5, 7])
def test_a_growing_log_never_changes_a_closed_partition(tmp_path: Path, size: int) -> None:
    log = synthetic(tmp_path, users=12, events=11).log
    generator = np.random.default_rng(size)
    before = close_partitions(log, size)
    for step in range(5):
        entries = [
            Interaction(
                user_id=f"u{generator.integers(14)}", item_id=f"i{generator.integers(50)}", value=5.0, time_ms=step
            )
            for _ in range(20)
        ]
        log, _ = log.extended(entries, str(step))
        after = close_partitions(log, size)
        for user in range(len(before.start) - 1):
            old = before.rows[before.start[user] : before.start[user + 1]]
            new = after.rows[after.start[user] : after.start[user + 1]]
            np.testing.assert_array_equal(old, new[: len(old)])
        before = after
    assert len(before) > 0
