"""LIBER through a real vLLM server, from the command line to the bytes that the service reads."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from bench.vllm_server import VllmServer
from models.contract.knowledge import KnowledgeRecord
from offline.data.log import InteractionLog
from offline.data.movielens import MovieLens100K
from offline.data.rules import Problems
from offline.demo import running_service
from offline.knowledge.vectors import Produced
from offline.publish.connection import open_store
from tests.conftest import ROOT, Installation
from tests.vllm.conftest import server_of

EVENTS, PARTITION = 45, 20  # of each user the first 45 interactions: at most two closed partitions
FEW = 12


@pytest.fixture(scope="module", params=[FEW, pytest.param(200, marks=pytest.mark.slow)], ids="{} users".format)
def users(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture(scope="module")
def server(
    users: int, request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VllmServer]:
    """Of all tests; for many users one in the arithmetic that this machine would choose."""
    if users <= FEW:
        yield request.getfixturevalue("vllm")
        return
    with server_of(checkpoint, tmp_path_factory.mktemp("vllm"), "auto") as server:
        yield server


@pytest.fixture(scope="module")
def installation(users: int, tmp_path_factory: pytest.TempPathFactory, server: VllmServer) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("liber")
    write_data(folder, users)
    config = folder / "liber.toml"
    config.write_text(configuration(folder, server, dim=8 if users <= FEW else 64))
    first = Installation(folder / "data", config)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("LORANK_")]:
            patch.delenv(name)
        with open_store(first.data_dir, "liber-vllm"):
            yield first


def configuration(folder: Path, vllm: VllmServer, dim: int) -> str:
    """configs/ml-100k.toml for the users' files, with LIBER as the only producer, one model and one epoch. A space
    of ``dim`` numbers takes more than half as many summaries."""
    text = (ROOT / "configs/ml-100k.toml").read_text()
    llm = f'backend = "openai"\nbase_url = "{vllm.base_url}"\nmodel = "{vllm.model}"\nconcurrency = 32\n'
    data = f"""source = "files"
interactions = {{ paths = "{folder}/interactions.csv", user = "user", item = "item", value = "value", time = "time", time_unit = "ms" }}
users = {{ paths = "{folder}/users.csv", id = "id", columns = {{ age = "int", gender = {{}}, occupation = {{}} }} }}
items = {{ paths = "{folder}/items.csv", id = "id", columns = {{ title = {{}}, year = "int", genres = "list" }} }}
"""  # noqa: E501 - TOML's inline tables end with their line
    for pattern, value in (
        (r'(?m)^name = "ml-100k"', 'name = "liber-vllm"'),
        (r'workdir = ".*?"', f'workdir = "{folder / "work"}"'),
        (r'source = "movielens-100k".*\n', data),
        (r"(?s)knowledge = \[.*?\n\]", f'knowledge = [{{ name = "liber", side = "user", rows = 8, dim = {dim} }}]'),
        (r"(?s)(?<=\[llm\]\n).*?(?=\n\[)", llm),
        (r"shipped_responses = .*\n", ""),
        (r"partition_size = \d+", f"partition_size = {PARTITION}"),
        (r"epochs = \d+", "epochs = 1"),
    ):
        text = text.replace(_first(pattern, text), value, 1)
    return text


def _first(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match, f"configs/ml-100k.toml has no {pattern}"
    return match[0]


def write_data(folder: Path, users: int) -> None:
    """The first users of MovieLens-100K by number, and the films that they rated."""
    source = MovieLens100K(folder / "raw")
    source.fetch()
    catalogue = source.catalogue(Problems())
    chosen = set(list(catalogue.users)[:users])
    taken: Counter[str] = Counter()
    rows = []
    for user, item, value, time_ms in sorted(source.rows(Problems()), key=lambda row: row[3]):
        if user in chosen and taken[user] < EVENTS:
            taken[user] += 1
            rows.append((user, item, value, time_ms))
    items = {item: catalogue.items[item] for item in sorted({row[1] for row in rows}, key=int)}
    write_csv(folder / "interactions.csv", ("user", "item", "value", "time"), rows)
    write_csv(
        folder / "users.csv",
        ("id", "age", "gender", "occupation"),
        ((user, *catalogue.users[user].values()) for user in catalogue.users if user in chosen),
    )
    write_csv(
        folder / "items.csv",
        ("id", "title", "year", "genres"),
        ((item, film["title"], film["year"], "|".join(film["genres"])) for item, film in items.items()),
    )


def write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def answered(vllm: VllmServer) -> float:
    """How many requests the server has answered in its life."""
    metrics = httpx2.get(vllm.base_url.removesuffix("/v1") + "/metrics", trust_env=False).text
    return sum(
        float(line.split()[-1]) for line in metrics.splitlines() if line.startswith("vllm:request_success_total")
    )


def test_knowledge_is_asked_published_and_served(installation: Installation, users: int, server: VllmServer) -> None:
    before = answered(server)
    entry = json.loads(installation.offline("refresh", "--ask-at-once").stdout.splitlines()[-1])
    assert (entry["status"], entry["reasons"]) == ("done", [])
    asked = entry["llm"]
    print(f"{asked['paid']} answers in {asked['seconds']:.0f} s, bad and asked again: {entry['asked_again']}")
    assert answered(server) - before == asked["paid"] > 1.5 * users
    assert asked["completion_tokens"] > asked["paid"]

    job = installation.job
    log, knowledge = InteractionLog.load(job.log), Produced.load(job.knowledge / "liber").users
    assert knowledge is not None
    known = [user for user in range(len(log.user_ids)) if knowledge.start[user + 1] > knowledge.start[user]]
    assert len(log.user_ids) == users
    assert len(known) > 0.9 * users
    with open_store(installation.data_dir, "liber-vllm") as store:
        for user in known:
            name = log.user_ids[user]
            blob: Any = store.redis.get(store.keys.user_knowledge(name, knowledge.space.fingerprint))
            record = KnowledgeRecord.unpack(blob, name, knowledge.space.fingerprint)
            expected = knowledge.vectors[knowledge.start[user] : knowledge.start[user + 1]]
            assert np.array_equal(record.vectors, expected.astype(np.float16).astype(np.float32)), name
            assert np.isfinite(record.vectors).all()
            assert (np.linalg.norm(record.vectors, axis=1) > 0).all()

    with running_service(job, 0, {}) as service, httpx2.Client(base_url=service.url, trust_env=False) as client:
        body = {"user_id": log.user_ids[known[0]], "candidates": [{"id": item} for item in log.item_ids[:50]]}
        answer = client.post("/v1/rank", json=body).json()
    assert answer["knowledge"]["fresh"] >= 1
    assert answer["degraded"] == []
    assert len({item["score"] for item in answer["items"]}) > 10


def test_a_second_refresh_asks_nothing(installation: Installation, server: VllmServer) -> None:
    before = answered(server)
    entry = json.loads(installation.offline("refresh").stdout.splitlines()[-1])
    assert entry["status"] == "done"
    assert answered(server) == before
