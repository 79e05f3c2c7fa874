"""The service's reranker on a real vLLM: its order, its limits, and what a killed or a hanging vLLM costs."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import redis

from bench.vllm_server import VllmServer, free_port
from models.contract.keys import Keys
from models.contract.prefixes import own_folder
from models.contract.prompts import Rated
from service.reranking import watch
from service.settings import Settings
from tests.service.conftest import Running, eventually, running
from tests.service.tiny import Publisher
from tests.vllm.conftest import MODEL, server_of
from tests.vllm.reranker import FILMS, IDS, Reference, name_of, reference, write

SLOTS = 2
HANGING = 20
DEADLINE_MS = 60_000
_prefixes = itertools.count()


@dataclass
class Machine:
    """A vLLM server, its signals and its counts."""

    server: VllmServer

    @property
    def url(self) -> str:
        return self.server.base_url.removesuffix("/v1")

    def signal(self, number: int) -> None:
        os.killpg(self.server.pid, number)

    async def at_work(self, http: httpx2.AsyncClient) -> int:
        """Requests that vLLM has and has not answered, by its own count."""
        return int((await http.get(f"{self.url}/load")).json()["server_load"])

    async def computed(self, http: httpx2.AsyncClient) -> float:
        """Prompts that vLLM has computed to their end, by its own count."""
        metrics = (await http.get(f"{self.url}/metrics")).text
        counts = re.findall(r'^vllm:request_success_total\{.*finished_reason="(\w+)".*\} (\S+)$', metrics, re.MULTILINE)
        assert counts
        return sum(float(count) for reason, count in counts if reason != "abort")


@pytest.fixture(scope="module")
def tuned(checkpoint: Path) -> Reference:
    return reference(checkpoint)


@pytest.fixture(scope="module")
def machine(vllm: VllmServer) -> Machine:
    return Machine(vllm)


@asynccontextmanager
async def serving(url: str, machine: Machine, tuned: Reference, folder: Path) -> AsyncIterator[Running]:
    """The service with the tiny release and the reranker, its history written."""
    keys = Keys(f"vllm{next(_prefixes)}")
    with redis.Redis.from_url(url) as client:
        Publisher(client, keys, own_folder(folder / "artifacts", keys.prefix)).publish()
    settings = Settings(
        redis_url=url,
        key_prefix=keys.prefix,
        data_dir=folder,
        default_deadline_ms=DEADLINE_MS,
        max_deadline_ms=DEADLINE_MS,
        reranker=write(folder / "reranker", tuned),
        reranker_url=machine.url,
        reranker_model=MODEL,
        rerank_slots=SLOTS,
        rerank_check_seconds=3600.0,
    )
    async with running(settings) as service:
        events = [
            {"user_id": "u", "item_id": item, "value": value, "timestamp_ms": 1_700_000_000_000 + at}
            for at, (item, value) in enumerate(zip("bce", (5.0, 4.0, 1.0), strict=True))
        ]
        assert (await service.http.post("/v1/feedback", json={"events": events})).status_code == 200
        await eventually(lambda: is_on(service), 120)
        yield service


async def is_on(service: Running) -> bool:
    return bool((await service.status())["stages"]["reranking"]["state"] == "on")


async def test_the_order_changes_where_the_scores_say_so(
    shared_valkey: str, machine: Machine, tuned: Reference, tmp_path: Path
) -> None:
    async with serving(shared_valkey, machine, tuned, tmp_path) as service:
        plain, forced = await service.rank("u"), await service.rank("u", rerank="force")
        assert forced["degraded"] == []
        seen = zip("bce", (5.0, 4.0, 1.0), strict=True)
        events = [Rated(name_of(FILMS[IDS.index(item)]), value) for item, value in seen]
        prompts = [tuned.prompt.parts({}, events, film) for film in FILMS]
        here = tuned.probabilities(prompts)
        server = service.app.state.service.ranker.reranker.server
        there = await server.probabilities(prompts, tuned.labels)
        print("transformers", here, "vLLM", there)
        np.testing.assert_allclose(there, here, atol=0.05)
        order = [IDS[at] for at in np.argsort(-there, kind="stable")]
        assert len(set(there.tolist())) == len(IDS)
        assert [item["id"] for item in forced["items"]] == order
        assert order != [item["id"] for item in plain["items"]]
        completed = await server._completed(prompts[0].user, [prompt.candidate for prompt in prompts], tuned.labels)
        np.testing.assert_allclose(completed, there, atol=0.02)


async def test_no_more_requests_than_the_slots_are_at_the_server(
    shared_valkey: str, machine: Machine, tuned: Reference, tmp_path: Path
) -> None:
    async with serving(shared_valkey, machine, tuned, tmp_path) as service, httpx2.AsyncClient(trust_env=False) as http:
        before = await machine.at_work(http)
        assert before == 0
        most, done = 0, False

        async def look() -> None:
            nonlocal most
            while not done:
                most = max(most, await machine.at_work(http))

        looking = asyncio.create_task(look())
        answers: list[dict[str, Any]] = []
        for _ in range(5):
            answers += await asyncio.gather(*(service.rank("u", rerank="force") for _ in range(64)))
        done = True
        await looking
        degraded = [tuple(answer["degraded"]) for answer in answers]
        assert set(degraded) == {(), ("no_rerank", "rerank_busy")}
        print(f"{degraded.count(())} of {len(degraded)} reranked, at most {most} requests at vLLM with {SLOTS} slots")
        assert 0 < most <= SLOTS
        assert (await service.status())["reranker"]["slots_free"] == SLOTS


async def test_a_hanging_vllm_costs_the_deadline(
    shared_valkey: str, machine: Machine, tuned: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(shared_valkey, machine, tuned, tmp_path) as service, httpx2.AsyncClient(trust_env=False) as http:
        monkeypatch.setattr(watch, "DOUBTFUL", 10**9)
        before = await machine.computed(http)
        machine.signal(signal.SIGSTOP)
        try:
            totals = []
            for _ in range(HANGING):
                answer = await service.rank("u", rerank="force", deadline_ms=200)
                assert answer["degraded"] == ["no_rerank", "rerank_late"]
                totals.append(answer["timing_ms"]["total"])
        finally:
            machine.signal(signal.SIGCONT)
        print(f"deadline 200 ms, vLLM stopped: total {min(totals):.1f} to {max(totals):.1f} ms")
        # what was sent meanwhile had lost its caller: vLLM drops it
        await eventually(lambda: is_idle(machine, http), 60)
        computed = await machine.computed(http) - before
        print(f"of {HANGING * len(IDS)} prompts that were sent meanwhile it computed {computed:.0f}")
        assert computed < HANGING * len(IDS)
        assert (await service.rank("u", rerank="force"))["degraded"] == []


async def is_idle(machine: Machine, http: httpx2.AsyncClient) -> bool:
    return await machine.at_work(http) == 0


@pytest.mark.slow(
    small="tests/service/reranking/test_service.py::test_a_sick_server_degrades_then_is_left_alone_then_comes_back"
)
async def test_a_killed_vllm_fails_no_request_and_comes_back(
    shared_valkey: str, checkpoint: Path, tuned: Reference, tmp_path: Path
) -> None:
    """With a server of its own, in the arithmetic that this machine would choose."""
    port = free_port()
    with ExitStack() as servers:

        def start() -> Machine:
            return Machine(servers.enter_context(server_of(checkpoint, tmp_path, "auto", port)))

        machine = start()
        async with serving(shared_valkey, machine, tuned, tmp_path / "service") as service:
            words: list[tuple[str, ...]] = []
            done = False

            async def load() -> None:
                while not done:
                    answer = await service.rank("u", rerank="force", deadline_ms=20_000)
                    assert len(answer["items"]) == len(IDS)
                    words.append(tuple(answer["degraded"]))
                    await asyncio.sleep(0.05)

            loads = [asyncio.create_task(load()) for _ in range(4)]
            await eventually(lambda: () in words, 60)
            machine.signal(signal.SIGKILL)
            await eventually(lambda: ("no_rerank", "rerank_failed") in words, 60)
            await eventually(lambda: ("no_rerank", "rerank_off") in words, 60)
            assert not await is_on(service)
            await asyncio.to_thread(servers.close)
            await asyncio.to_thread(start)
            await eventually(lambda: is_on(service), 120)
            before = len(words)
            await eventually(lambda: () in words[before:], 60)
            done = True
            await asyncio.gather(*loads)  # an answer other than 200 would have ended one of them
            print({word: words.count(word) for word in set(words)})
