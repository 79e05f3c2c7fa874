"""``--since``: what it accepts, and whom it is about."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.contract.events import Interaction
from offline.data.log import InteractionLog
from offline.jobs.events import Arrivals, Recent, parse_since
from offline.knowledge.liber.partitions import Trigger, close_partitions
from tests.synthetic import synthetic

DAY = 86_400_000
NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7d", round(NOW * 1000) - 7 * DAY),
        ("12h", round(NOW * 1000) - DAY // 2),
        ("45m", round(NOW * 1000) - 45 * 60_000),
        ("2w", round(NOW * 1000) - 14 * DAY),
        ("1970-01-02", DAY),
        ("1970-01-01T06:00", DAY // 4),
        ("1970-01-01T06:00:00+06:00", 0),
        ("1970-01-01T06:00:00Z", DAY // 4),
        (" 1970-01-02 ", DAY),
    ],
)
def test_times_and_ages(text: str, expected: int) -> None:
    assert parse_since(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "7y", "yesterday", "2026-13-01", "7d 3h"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no time"):
        parse_since(text)


def grown(log: InteractionLog, *events: tuple[str, str, int]) -> InteractionLog:
    entries = [Interaction(user_id=user, item_id=item, value=5.0, time_ms=time) for user, item, time in events]
    return log.extended(entries, "1-0")[0]


def test_recent_is_what_happened_or_arrived_since_then(tmp_path: Path) -> None:
    first = synthetic(tmp_path, users=6, items=8, events=10).log
    log = grown(first, ("u1", "i2", 5), ("newcomer", "new-item", 5))  # happened long ago, arrives now
    since = int(first.time_ms.max())
    last = (first.user[-1], first.item[-1])
    happened = Recent.of(log, [], since)
    assert np.flatnonzero(happened.users).tolist() == [last[0]]
    assert np.flatnonzero(happened.items).tolist() == [last[1]]
    arrived = Recent.of(log, [[since - 1, 0, 0], [since + 1, len(first), len(first.item_ids)]], since)
    assert set(np.flatnonzero(arrived.users)) == {last[0], 1, 6}
    assert set(np.flatnonzero(arrived.items)) == {last[1], 2, 8}
    assert set(arrived.item_ids(log)) == {f"i{last[1]}", "i2", "new-item"}


def test_items_that_came_without_interactions_are_recent(tmp_path: Path) -> None:
    log = synthetic(tmp_path, users=6, items=8, events=10).log
    longer = replace(log, item_ids=(*log.item_ids, "unseen"))
    recent = Recent.of(longer, [[10**15, len(log), len(log.item_ids)]], 10**15)
    assert recent.item_ids(longer) == ["unseen"]


def test_partitions_of_recent_users_alone(tmp_path: Path) -> None:
    log = synthetic(tmp_path, users=6, items=8, events=12).log
    partitions = close_partitions(log, Trigger(5))
    users = np.zeros(6, np.bool_)
    users[[1, 4]] = True
    of_recent = Recent(users, np.zeros(8, np.bool_)).partitions_of(partitions)
    assert len(of_recent) == 4
    assert of_recent.user.tolist() == [1, 1, 4, 4]
    assert of_recent.start.tolist() == [0, 0, 2, 2, 2, 4, 4]
    assert of_recent.first_of_user().tolist() == [True, False, True, False]
    of = {(user, at) for at, user in enumerate(partitions.user.tolist()) if user in (1, 4)}
    for mine, (_, whole) in zip(range(4), sorted(of), strict=True):
        assert of_recent.rows_of(mine).tolist() == partitions.rows_of(whole).tolist()
        assert of_recent.closed_at[mine] == partitions.closed_at[whole]


def test_arrivals_are_kept_in_order_and_bounded(tmp_path: Path) -> None:
    log = synthetic(tmp_path, users=2, items=8, events=3).log
    arrivals = Arrivals(tmp_path / "arrivals.json")
    assert arrivals.all() == []
    for _ in range(3):
        arrivals.about_to_grow(log)
    marks = arrivals.all()
    assert [mark[1:] for mark in marks] == [[6, 8]] * 3
    assert marks == sorted(marks)
    arrivals.forget()
    arrivals.forget()
    assert arrivals.all() == []
