"""The interaction log: order and appending."""

from __future__ import annotations

import numpy as np
import pytest

from models.contract.events import Interaction
from offline.data.log import InteractionLog
from offline.knowledge.liber.partitions import Trigger, close_partitions

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
        event("u1", "b", 4.5, 20),  # in the log already
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


def test_rows_by_user(log: InteractionLog) -> None:
    index = log.by_user()
    assert [index.of_user(user).tolist() for user in range(3)] == [[1, 2], [3, 4], [0]]
    assert index.position.tolist() == [0, 0, 1, 0, 1]


def test_users_without_rows_have_none() -> None:
    index = InteractionLog.sorted_by_time([("b", "i", 1.0, 1)], ["a", "b", "c"], ["i"]).by_user()
    assert [index.of_user(user).tolist() for user in range(3)] == [[], [0], []]


def test_rows_by_user_of_interleaved_users() -> None:
    generator = np.random.default_rng(0)
    rows = [(f"u{generator.integers(7)}", f"i{generator.integers(9)}", 1.0, at) for at in range(200)]
    log = InteractionLog.sorted_by_time(rows, [], [])
    index = log.by_user()
    for row, user in enumerate(log.user.tolist()):
        assert index.position[row] == (log.user[:row] == user).sum()
        assert index.of_user(user)[index.position[row]] == row


def stream(seed: int, count: int = 120) -> list[Interaction]:
    """Events out of order, some of them repeated, some a year late."""
    generator = np.random.default_rng(seed)
    year = 365 * 86_400_000
    events = [
        event(f"u{generator.integers(4)}", f"i{generator.integers(9)}", float(generator.integers(1, 6)), int(at))
        for at in 2 * year + generator.permutation(count) * 1000
    ]
    late = [event(earlier.user_id, earlier.item_id, earlier.value, earlier.time_ms - year) for earlier in events[::7]]
    repeated = [events[int(at)] for at in generator.integers(0, count, 30)]
    return [*events, *late, *repeated, *late]


def delivered(log: InteractionLog, entries: list[Interaction], page: int) -> InteractionLog:
    for at in range(0, len(entries), page):
        log, _ = log.extended(entries[at : at + page], f"{at + page}-0")
    return log


@pytest.mark.parametrize("page", [1, 7, 50, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_the_pages_of_a_stream_do_not_matter(log: InteractionLog, page: int, seed: int) -> None:
    entries = stream(seed)
    once, added = log.extended(entries, "1-0")
    paged = delivered(log, entries, page)
    assert seen(paged) == seen(once)
    assert (paged.user_ids, paged.item_ids) == (once.user_ids, once.item_ids)
    assert added == len({(entry.user_id, entry.item_id, entry.value, entry.time_ms) for entry in entries})


@pytest.mark.parametrize("page", [3, 1000])
def test_a_stream_that_is_delivered_again_changes_nothing(log: InteractionLog, page: int) -> None:
    entries = stream(5)
    once = delivered(log, entries, page)
    for again in (entries, entries[::-1], entries[40:] + entries[:40]):
        twice = delivered(once, again, 11)
        assert seen(twice) == seen(once)
        assert (twice.user_ids, twice.item_ids) == (once.user_ids, once.item_ids)


def test_events_may_overlap_across_refreshes(log: InteractionLog) -> None:
    entries = stream(6)
    overlapping = log
    for at in range(0, len(entries), 20):
        overlapping, _ = overlapping.extended(entries[max(0, at - 15) : at + 20], f"{at}-0")
    assert seen(overlapping) == seen(log.extended(entries, "1")[0])


def test_a_late_event_is_appended_and_closed_partitions_stay(log: InteractionLog) -> None:
    entries = stream(7)
    half = delivered(log, entries[:60], 9)
    closed = close_partitions(half, Trigger(size=5))
    grown = delivered(half, [event("u1", "i1", 5.0, 1), *entries[60:]], 9)
    later = close_partitions(grown, Trigger(size=5))
    assert len(later) > len(closed) > 3
    members = {
        (int(later.closed_at[partition]), tuple(later.rows_of(partition).tolist())) for partition in range(len(later))
    }
    assert {
        (int(closed.closed_at[partition]), tuple(closed.rows_of(partition).tolist()))
        for partition in range(len(closed))
    } <= members
    assert seen(grown)[: len(half)] == seen(half)
    assert seen(grown)[len(half)] == ("u1", "i1", 5.0, 1)


def test_a_data_set_that_is_loaded_again_adds_only_what_is_new(log: InteractionLog) -> None:
    streamed, _ = log.extended([event("u1", "c", 3.0, 99)], "3-0")
    more = [("u1", "c", 3.0, 99), ("u0", "d", 2.0, 40), ("u2", "a", 3.0, 15)]
    grown, added = streamed.with_rows([*more, *ROWS, *more], ["u1", "u2", "u0", "quiet"], ["a", "b", "c", "d", "e"])
    assert added == 2
    assert seen(grown)[len(streamed) :] == [("u2", "a", 3.0, 15), ("u0", "d", 2.0, 40)]
    assert grown.user_ids == (*streamed.user_ids, "u0", "quiet")
    assert grown.item_ids == (*streamed.item_ids, "d", "e")
    assert grown.stream_mark == "3-0"
    again, more_added = grown.with_rows([*ROWS, *more][::-1], [], [])
    assert (more_added, seen(again)) == (0, seen(grown))


def test_repetitions_in_the_first_load_count_once() -> None:
    log = InteractionLog.sorted_by_time([*ROWS, *ROWS, ("u1", "a", 4.0, 20)], ["u1", "u2"], ["a", "b"])
    assert seen(log)[1:3] == [("u1", "a", 4.0, 20), ("u1", "a", 5.0, 20)]
    assert len(log) == len(ROWS) + 1


def test_what_was_touched_since(log: InteractionLog) -> None:
    grown, _ = log.extended([event("new", "a", 1.0, 5), event("u1", "fresh", 1.0, 7)], "1")
    arrived = grown.since(row=len(log))
    assert [grown.user_ids[user] for user in arrived.users] == ["u1", "new"]
    assert [grown.item_ids[item] for item in arrived.items] == ["a", "fresh"]
    late = grown.since(time_ms=30)
    assert ([grown.user_ids[user] for user in late.users], [grown.item_ids[item] for item in late.items]) == (
        ["u2"],
        ["b"],
    )
    assert len(grown.since(row=len(grown)).users) == 0
    with pytest.raises(ValueError, match="either row or time_ms"):
        grown.since()
    with pytest.raises(ValueError, match="either row or time_ms"):
        grown.since(row=1, time_ms=1)


@pytest.fixture
def with_drawn(log: InteractionLog) -> InteractionLog:
    """Two negatives of u1's second row, one of u2's first."""
    return log.with_sampled(np.array([2, 2, 3]), np.array([2, 3, 1], np.int32))


def test_drawn_negatives_lie_right_before_their_positive(with_drawn: InteractionLog) -> None:
    assert seen(with_drawn) == [
        ("u9", "z", 2.0, 10), ("u1", "a", 5.0, 20), ("u1", "c", 0.0, 20), ("u1", "z", 0.0, 20), ("u1", "b", 4.5, 20),
        ("u2", "b", 0.0, 20), ("u2", "a", 3.0, 20), ("u2", "b", 1.0, 30),
    ]  # fmt: skip
    assert with_drawn.sampled.tolist() == [False, False, True, True, False, True, False, False]
    assert with_drawn.observed.tolist() == [0, 1, 4, 6, 7]


def test_drawn_negatives_are_in_nobodys_history(with_drawn: InteractionLog, log: InteractionLog) -> None:
    index = with_drawn.by_user()
    assert [index.of_user(user).tolist() for user in range(3)] == [[1, 4], [6, 7], [0]]
    assert index.position.tolist() == [0, 0, 1, 1, 1, 0, 0, 1]  # a negative has its positive's past
    assert with_drawn.since(row=5).users.tolist() == [1]
    assert with_drawn.since(row=5).items.tolist() == [0, 1]
    assert len(close_partitions(with_drawn, Trigger(size=2))) == len(close_partitions(log, Trigger(size=2))) == 2


def test_an_observed_event_like_a_drawn_one_is_no_repetition(with_drawn: InteractionLog) -> None:
    grown, added = with_drawn.extended([event("u1", "c", 0.0, 20)], "1")
    assert (added, bool(grown.sampled[-1])) == (1, False)
