"""The main job on real data: interactions -> LLM knowledge -> CTR model -> ONNX -> Redis -> ranked answer over HTTP."""

from __future__ import annotations

import shutil
import time
from typing import Any

import httpx2
import numpy as np

from models.contract.knowledge import KnowledgeRecord
from offline.data.log import InteractionLog
from offline.jobs.ledger import RunLedger
from offline.jobs.verify import TOLERANCE, verify
from offline.knowledge.run import load_knowledge
from offline.publish.connection import Store
from offline.publish.release import live_release
from tests.conftest import Installation

LONG_DEADLINE = 5000  # milliseconds: what is tested here is the answer, not the speed of a shared machine


def rank(client: httpx2.Client, user: str, items: list[str], **more: Any) -> dict[str, Any]:
    body = {"user_id": user, "candidates": [{"id": item} for item in items], "deadline_ms": LONG_DEADLINE, **more}
    response = client.post("/v1/rank", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def last_ledger(installation: Installation) -> dict[str, Any]:
    """The account of the last run that asked the language model anything."""
    return RunLedger(installation.job.config.workdir).accounts()[-1].document()


def test_a_known_user_gets_a_complete_answer(installation: Installation, client: httpx2.Client) -> None:
    items = [str(number) for number in range(1, 101)]
    answer = rank(client, "405", items)
    assert sorted(item["id"] for item in answer["items"]) == sorted(items)
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 90
    schema = installation.job.config.feature_schema
    consulted = len(schema.user_knowledge) + 100 * len(schema.item_knowledge)
    assert answer["knowledge"] == {"fresh": consulted, "stale": 0, "missing": 0}
    assert answer["degraded"] == []


def test_unknown_users_and_items_are_ranked(installation: Installation, client: httpx2.Client) -> None:
    new_item = {"id": "not-yet-seen", "features": {"genres": ["Sci-Fi"], "year": 1997}}
    body = {"user_id": "nobody", "candidates": [{"id": 50}, new_item, {"id": "1"}], "deadline_ms": LONG_DEADLINE}
    response = client.post("/v1/rank", json=body)
    assert response.status_code == 200
    answer = response.json()
    assert sorted(item["id"] for item in answer["items"]) == ["1", "50", "not-yet-seen"]
    assert answer["degraded"] == []
    assert answer["knowledge"]["missing"] == len(installation.job.config.feature_schema.knowledge)  # in every space


def test_knowledge_changes_scores_and_the_answer_says_by_how_much(client: httpx2.Client) -> None:
    answer = rank(client, "405", ["1", "50", "100", "181"], explain=True)
    moved = [abs(item["score"] - item["explain"]["score_without_knowledge"]) for item in answer["items"]]
    assert max(moved) > 1e-4


def test_served_scores_equal_torch_on_a_thousand_logged_requests(installation: Installation, base_url: str) -> None:
    result = verify(installation.job, base_url, 1000)
    assert result.requests == 1000
    assert result.worst < TOLERANCE == 1e-5, result.summary()


def test_feedback_closes_a_partition_one_call_is_paid_for_it_and_then_there_is_nothing_to_do(
    installation: Installation, client: httpx2.Client, store: Store
) -> None:
    installation.offline("refresh")  # takes over what other tests fed back
    user, size = "newcomer-1", installation.job.config.knowledge.liber.partition_size
    assert size is not None
    spaces = len(installation.job.config.feature_schema.user_knowledge)
    before = rank(client, user, ["50", "181", "222"])
    assert before["knowledge"]["missing"] == spaces
    now = int(time.time() * 1000)
    events = [
        {"user_id": user, "item_id": str(item), "type": "rating", "value": 5.0, "timestamp_ms": now - 1000 + item}
        for item in range(1, size + 1)
    ]
    assert client.post("/v1/feedback", json={"events": events}).status_code == 200
    at_once = rank(client, user, ["50", "181", "222"])
    assert [item["score"] for item in at_once["items"]] != [item["score"] for item in before["items"]]
    assert at_once["knowledge"]["missing"] == spaces  # the partition is closed, but no job has read it yet

    output = installation.offline("refresh").stdout
    assert last_ledger(installation)["paid"] == 1, output
    assert f"{size} of them new" in output
    for name in ("user/liber", "user/autograph", "user/marc"):
        assert f"{name}: 1 written" in output
    for name in ("item/text", "item/autograph", "item/marc"):
        assert f"{name}: 0 written" in output
    assert f"item features: {size} written" in output

    log = InteractionLog.load(installation.job.log)
    knowledge = load_knowledge(installation.job.knowledge, installation.job.config.feature_schema, log)
    expected = knowledge.of_user(log.user_ids.index(user))
    for name, users in knowledge.users.items():
        space = users.space.fingerprint
        packed: Any = store.redis.get(store.keys.user_knowledge(user, space))
        record = KnowledgeRecord.unpack(packed, user, space)
        assert record.vectors.shape == (1, users.space.dim)
        np.testing.assert_array_equal(record.vectors, expected[name])
    after = rank(client, user, ["50", "181", "222"])
    assert after["knowledge"]["missing"] == 0
    assert [item["score"] for item in after["items"]] != [item["score"] for item in at_once["items"]]

    output = installation.offline("refresh").stdout
    assert last_ledger(installation)["paid"] == 1  # the idle refresh asked nothing and wrote no ledger entry
    assert "up to date" in output
    for space in ("user/liber", "user/autograph", "item/autograph", "user/marc", "item/marc", "item features"):
        assert f"{space}: 0 written" in output
    assert "as before" in output


def test_a_new_model_is_a_new_release_and_rolls_back(
    installation: Installation, client: httpx2.Client, store: Store
) -> None:
    first = live_release(store)
    workdir = installation.job.config.workdir
    shutil.copytree(workdir, workdir.with_name("other-seed"))
    changed = installation.config.read_text().replace("seeds = [1]", "seeds = [2]")
    changed = changed.replace(str(workdir), str(workdir.with_name("other-seed")))
    other = Installation(installation.data_dir, installation.config.with_name("other-seed.toml"))
    other.config.write_text(changed)
    other.offline("refresh")
    second = live_release(store)
    assert second is not None
    assert second != first
    await_release(client, second)
    installation.offline("rollback")
    assert live_release(store) == first
    await_release(client, str(first))
    again = rank(client, "405", ["1", "50"])
    assert again["release"] == first
    output = other.offline("refresh").stdout
    assert live_release(store) == first, "a scheduled refresh must not undo a rollback"
    assert f"{second} was rolled back and stays off" in output


def await_release(client: httpx2.Client, release: str) -> None:
    """Poll until the service answers from ``release``; it looks for a new one every second."""
    until = time.monotonic() + 30
    while rank(client, "405", ["1", "50"])["release"] != release:
        assert time.monotonic() < until, client.get("/v1/status").text
        time.sleep(0.05)


def test_rollback_beyond_the_first_release_is_refused(installation: Installation) -> None:
    result = installation.offline("rollback", "--to", "no-such-release", check=False)
    assert result.returncode == 1
    assert "no-such-release" in result.stderr
    assert "Traceback" not in result.stderr
