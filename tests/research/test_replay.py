"""A replay's knowledge when it begins, and its requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from offline.data.catalogue import DataError
from offline.jobs.steps import Job
from offline.publish.connection import Store
from offline.training.samples import split_samples
from research import replay as driver
from research.cli import replay as command
from research.replay import Replayed, Visit, knowledge_before, log_before, past, replay, visits
from tests.synthetic import Synthetic, synthetic


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return synthetic(tmp_path_factory.mktemp("replay"), users=20, items=30, events=20)


@pytest.mark.parametrize("row", [0, 1, 150, 400])
def test_the_log_and_knowledge_end_at_the_row(data: Synthetic, row: int) -> None:
    before = log_before(data.log, row)
    assert len(before) == row
    assert before.user_ids == data.log.user_ids
    np.testing.assert_array_equal(before.item, data.log.item[:row])
    users = np.arange(len(data.log.user_ids))
    for name, produced in data.knowledge.produced.items():
        then = knowledge_before(data.knowledge, row).produced[name]
        if produced.users is not None and then.users is not None:
            visible = produced.users.visible(users, np.full(len(users), row))
            for user in users:
                start = produced.users.start[user]
                seen = produced.users.vectors[start : start + visible[user]][-produced.users.space.rows :]
                np.testing.assert_array_equal(then.users.of_user(int(user)), seen)
            assert (then.users.since < row).all()
        if produced.items is not None and then.items is not None:
            assert len(then.items.vectors) == len(then.items.from_row) >= 1
            assert (then.items.from_row[1:] <= row).all()


def test_every_visit_offers_the_item_among_others_that_the_user_never_took(data: Synthetic) -> None:
    first = len(data.log) - 40
    visited = visits(data.log, first, 30, 9, seed=1, name="x")
    assert len(visited) == 30
    taken: dict[str, set[str]] = {}
    for user, item in zip(data.log.user, data.log.item, strict=True):
        taken.setdefault(data.log.user_ids[user], set()).add(data.log.item_ids[item])
    for at, offered in enumerate(visited):
        assert offered.item == data.log.item_ids[data.log.item[first + at]]
        assert set(offered.candidates) & taken[offered.user] == {offered.item}
        assert len(offered.candidates) == len(set(offered.candidates)) <= 10
    assert len({offered.request_id for offered in visited}) == 30
    places = [offered.candidates.index(offered.item) for offered in visited]
    assert len(set(places)) > 3, "the item must not always stand in one place"
    assert visited == visits(data.log, first, 30, 9, seed=1, name="x")
    assert len(visits(data.log, first, 1000, 9, seed=1, name="x")) == 40


def test_the_past_ends_where_the_replay_begins(data: Synthetic) -> None:
    log = replace(data.log, user_ids=tuple(f"{name}\0" for name in data.log.user_ids))
    frame = past(log, data.config.samples, 1_000_000_000_000)
    first = int(split_samples(data.config.samples, log).rows["test"][0])
    assert frame.height == first
    assert frame["unit"].to_list() == [log.user_ids[user] for user in log.user[:first]]
    assert frame["item"].to_list() == [log.item_ids[item] for item in log.item[:first]]
    assert frame["time_ms"].max() < 1_000_000_000_000  # type: ignore[operator]
    assert frame["time_ms"].diff().drop_nulls().to_list() == np.diff(data.log.time_ms[:first]).tolist()


def served(monkeypatch: pytest.MonkeyPatch, answer: Callable[[httpx2.Request], httpx2.Response]) -> None:
    """Answers instead of a service."""
    client = httpx2.AsyncClient

    def patched(**settings: Any) -> httpx2.AsyncClient:
        return client(**settings, transport=httpx2.MockTransport(answer))

    monkeypatch.setattr(httpx2, "AsyncClient", patched)
    monkeypatch.setattr(driver, "_PAUSE_S", 0.0)


def visit(at: int, user: str = "u") -> Visit:
    return Visit(f"r{at}", user, f"i{at}", 4.0, (f"i{at}", "other"))


def run(sent: list[Visit]) -> Replayed:
    return asyncio.run(replay("http://service", sent, 1, None, progress=False))


def test_shown_items_are_fed_back_in_answer_to_their_request(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[dict[str, Any]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        if request.url.path == "/v1/feedback":
            events.append(body)
            return httpx2.Response(200, json={"accepted": 1})
        first = body["candidates"][0]["id"] if body["request_id"] != "r1" else "other"
        return httpx2.Response(200, json={"items": [{"id": first}]})

    served(monkeypatch, answer)
    outcome = run([visit(at) for at in range(3)])
    assert (outcome.requests, outcome.shown, outcome.feedback, outcome.repeated) == (3, 2, 3, 0)
    assert [event.get("request_id") for event in events] == ["r0", None, "r2"], "a user's visits stay in order"
    assert all(event["value"] == 4.0 and event["timestamp_ms"] > 0 for event in events)


def test_what_is_refused_for_a_while_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        calls.append(request.url.path)
        if len(calls) == 1:
            raise httpx2.ConnectError("down", request=request)
        if len(calls) == 2:
            return httpx2.Response(429, json={})
        return httpx2.Response(200, json={"items": []})

    served(monkeypatch, answer)
    outcome = run([visit(0)])
    assert (outcome.requests, outcome.repeated) == (1, 2)
    assert calls == ["/v1/rank"] * 3 + ["/v1/feedback"]


def test_a_request_that_is_wrong_ends_the_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    served(monkeypatch, lambda request: httpx2.Response(422, text="no such arm"))
    with pytest.raises(DataError, match="no such arm"):
        run([visit(0)])


def test_a_service_that_stays_away_ends_the_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_ATTEMPTS", 3)
    served(monkeypatch, lambda request: httpx2.Response(503, json={}))
    with pytest.raises(DataError, match="does not answer /v1/rank"):
        run([visit(0), visit(1, "v")])


def test_nothing_can_be_replayed_before_a_refresh(data: Synthetic, tmp_path: Path) -> None:
    job = Job(data.config.model_copy(update={"workdir": tmp_path}), tmp_path)
    with pytest.raises(DataError, match="run `refresh` first"):
        driver.begin(job, None, 1, 1, 1)  # type: ignore[arg-type]


def test_a_replay_that_fails_leaves_nothing_in_redis(
    data: Synthetic, tmp_path: Path, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users would be under its prefix whom no deletion looks for."""
    monkeypatch.setenv("LORANK_REDIS_URL", valkey)
    monkeypatch.setenv("LORANK_KEY_PREFIX", "replayed")
    job = Job(data.config.model_copy(update={"workdir": tmp_path / "work"}), tmp_path)
    written = list[bytes]()

    def begin(_: Job, store: Store, *__: int) -> None:
        store.redis.set(store.keys.user_history("u"), b"x")
        written.extend(store.redis.scan_iter("replayed-replay:*"))
        raise DataError("the model is gone")

    monkeypatch.setattr(driver, "begin", begin)
    monkeypatch.setattr(command, "job_of", lambda *_: job)
    with pytest.raises(DataError, match="the model is gone"):
        command.replay(tmp_path, tmp_path)
    assert len(written) == 1
    with driver.replay_store(driver.replay_job(job)) as store:
        assert list(store.redis.scan_iter("replayed-replay:*")) == []
