"""The streams of the service, as the jobs read them back."""

from __future__ import annotations

from typing import Any

import pytest

from models.contract.events import Interaction
from models.contract.exposures import Exposure
from offline.publish.connection import Store
from offline.publish.streams import exposures, new_interactions
from tests.offline.publish.conftest import Release


def event(at: int) -> Interaction:
    return Interaction(user_id=f"u{at % 3}", item_id=f"i{at}", value=at % 5, time_ms=at)


def append(store: Store, fields: dict[Any, Any]) -> str:
    entry: Any = store.redis.xadd(store.keys.interactions, fields)
    return str(entry.decode())


def test_an_absent_stream_holds_nothing(store: Store) -> None:
    assert new_interactions(store, "0-0") == ([], "0-0", 0)
    assert exposures(store) == []


def test_interactions_are_read_once_in_order(store: Store) -> None:
    entries = [append(store, event(at).to_stream()) for at in range(5)]
    assert new_interactions(store, "0-0") == ([event(at) for at in range(5)], entries[-1], 0)
    assert new_interactions(store, entries[1]) == ([event(at) for at in range(2, 5)], entries[-1], 0)
    assert new_interactions(store, entries[-1]) == ([], entries[-1], 0)
    last = append(store, event(9).to_stream())
    assert new_interactions(store, entries[-1]) == ([event(9)], last, 0)


@pytest.mark.parametrize(
    "bad",
    [
        {"v": "2", "event": event(1).to_stream()["event"]},
        {"event": event(1).to_stream()["event"]},
        {"v": "1"},
        {"v": "1", "event": "{"},
        {"v": "1", "event": '{"user_id": "u"}'},
        {"v": "1", "event": event(1).to_stream()["event"].replace("}", ',"new_field":1}')},
        {"something": "else"},
    ],
)
def test_what_is_not_understood_is_counted_and_skipped(store: Store, bad: dict[str, str]) -> None:
    append(store, event(1).to_stream())
    append(store, bad)
    last = append(store, event(2).to_stream())
    assert new_interactions(store, "0-0") == ([event(1), event(2)], last, 1)


def test_a_bad_entry_at_the_end_is_not_read_again(store: Store) -> None:
    last = append(store, {"v": "2"})
    assert new_interactions(store, "0-0") == ([], last, 1)
    assert new_interactions(store, last) == ([], last, 0)


def test_bytes_that_are_no_text_are_counted_and_skipped(store: Store) -> None:
    store.redis.xadd(store.keys.interactions, {"v": b"1", "event": b"\xff\xfe"})
    interactions, _, refused = new_interactions(store, "0-0")
    assert (interactions, refused) == ([], 1)


def test_more_entries_than_one_page(store: Store) -> None:
    pipeline = store.redis.pipeline(transaction=False)
    for at in range(10_001):
        pipeline.xadd(store.keys.interactions, event(at).to_stream())  # type: ignore[arg-type]  # text is fine
    pipeline.execute()
    interactions, _, refused = new_interactions(store, "0-0")
    assert ([interaction.time_ms for interaction in interactions], refused) == (list(range(10_001)), 0)


def test_streamed_interactions_extend_the_log_once(store: Store, trained: Release) -> None:
    log = trained.data.log
    for at in range(4):
        append(store, event(at).to_stream())
    streamed, mark, _ = new_interactions(store, log.stream_mark)
    grown, added = log.extended(streamed, mark)
    assert (added, grown.stream_mark) == (4, mark)
    again, mark, _ = new_interactions(store, grown.stream_mark)
    assert grown.extended(again, mark)[1] == 0


def test_exposures_are_read_oldest_first(store: Store) -> None:
    logged = [
        Exposure(
            request_id=f"r{at}", user_id="u", unit="u", time_ms=at, release="r", arms=(), knowledge=True, degraded=(),
            latency_ms=1.0, candidates=1, items=("i",), scores=(0.5,), history_events=0, history_digest="0" * 16,
        )
        for at in range(3)
    ]  # fmt: skip
    for exposure in logged:
        fields: dict[Any, Any] = {**exposure.to_stream()}
        store.redis.xadd(store.keys.exposures, fields)
    assert exposures(store) == logged
