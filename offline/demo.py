"""The demo: refresh, start the service, ask it one question, show the answer, keep serving.

It uses the service as any product would: as a separate process, over HTTP.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from offline.child import child_python
from offline.config import DEMO_EXPERIMENTS
from offline.data.catalogue import Catalogue, DataError
from offline.data.dataset import open_dataset
from offline.data.log import InteractionLog
from offline.jobs.calls import authorization, refusal
from offline.jobs.llm_requests import inputs_of
from offline.jobs.runs import Run
from offline.jobs.steps import Job, step
from offline.knowledge.liber.partitions import close_partitions
from offline.knowledge.run import load_knowledge
from offline.llm.protocol import Completion
from offline.publish.connection import key_prefix, open_store
from offline.refresh import language_model, refresh

_READY_SECONDS = 60.0
_SHOWN = 10
_PARTITIONS = 5


def run_demo(job: Job, port: int, check: bool) -> int:
    """Exit status: 0, or 130 if a check was interrupted. DataError if the answers are not what they should be."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both ways of stopping it end it cleanly
    try:
        # an embedded server lasts for the whole demo, so that both meet in one
        with open_store(job.data_dir, job.config.name):
            refresh(job)
            with (
                running_service(job, port, experiments()) as service,
                httpx2.Client(base_url=service.url, timeout=10.0, headers=authorization()) as client,
            ):
                showcase = _Showcase(job, client)
                showcase.rank()
                showcase.learn()
                showcase.ask_live()
                if check:
                    showcase.check()
                    print("demo-check: passed", flush=True)
                else:
                    print(f"\nServing on {service.url}; API page {service.url}/docs; Ctrl-C stops.", flush=True)
                    status = service.process.wait()
                    raise DataError(f"the service ended by itself with status {status}")
    except KeyboardInterrupt:
        print("\nstopped", flush=True)
        return 130 if check else 0
    return 0


class _Showcase:
    """One user, one list of candidates, before and after feedback."""

    def __init__(self, job: Job, client: httpx2.Client) -> None:
        self._client, self._job = client, job
        self._catalogue: Catalogue = open_dataset(job.config.data, job.raw).catalogue()
        self._log = InteractionLog.load(job.log)
        self._knowledge = load_knowledge(job.knowledge, job.config.feature_schema, self._log)
        self._partitions = close_partitions(self._log, job.config.knowledge.liber.trigger)
        self._user = self._a_user()
        self._candidates = self._unseen(100)
        self.first: dict[str, Any] = {}
        self.second: dict[str, Any] = {}
        self.live: Completion | None = None

    def rank(self) -> None:
        """Rank 100 films the user has not rated, and show the head of the list."""
        user = self._log.user_ids[self._user]
        profile = self._catalogue.users[user]
        print(f"\n== POST /v1/rank: 100 unseen films for user {user} ({', '.join(str(v) for v in profile.values())})")
        count = np.diff(self._partitions.start)[self._user]
        newest = self._knowledge.produced["liber"].texts[user]
        print(f"  knowledge  {count} partitions; the newest says: {newest[:400]}")
        self._rank()  # the first request also warms up the connection
        self.first = self._rank()
        for item in self.first["items"][:_SHOWN]:
            film = self._catalogue.items[item["id"]]
            print(f"  {item['rank']:>3}  {item['score']:.3f}  {self._job.config.data.texts.item_text(film)}")
        print(f"  release    {self.first['release']}, model {self.first['model']['name']}")
        print(f"  knowledge  {self.first['knowledge']}   degraded {self.first['degraded']}")
        print(f"  timing_ms  {self.first['timing_ms']}")

    def learn(self) -> None:
        """Tell the service that the user disliked the three films at the head, and rank again: it reads its writes."""
        user = self._log.user_ids[self._user]
        events = [{"user_id": user, "item_id": item["id"], "value": 1.0} for item in self.first["items"][:3]]
        self._answer("feedback", {"events": events})
        self.second = self._rank()
        now = {item["id"]: item for item in self.second["items"]}
        print("\n== POST /v1/feedback: one star for each of the first three; the next answers know it")
        for item in self.first["items"][:5]:
            later = now[item["id"]]
            title = self._catalogue.items[item["id"]]["title"]
            print(f"  {item['score']:.3f} -> {later['score']:.3f}  rank {item['rank']} -> {later['rank']}  {title}")

    def ask_live(self) -> None:
        """Ask the language model about the user's newest partition again, now, and show both answers."""
        with inputs_of(self._job, self._catalogue, self._log, "liber") as inputs:
            prompt = inputs.texts.summary_prompts[self._partitions.start[self._user + 1] - 1]
        with Run(self._job, "demo").working() as run, language_model(self._job) as session:
            try:
                (cached,) = session.ask_all([prompt], "  cached answer").texts
                self.live = session.complete_live(prompt)
            finally:
                run.asked(session.account, {}, {})
            print(f"\n== the knowledge behind it: a live call to {session.account.model_id}")
        print("  asked     " + "\n            ".join(prompt.messages[-1][1].splitlines()))
        print(f"  answered  {self.live.text.strip()}")
        print(f"            ({self.live.prompt_tokens} -> {self.live.completion_tokens} tokens)")
        same = self.live.text == cached
        print(f"  cached    {'the same text' if same else (cached or 'nothing').strip()}", flush=True)

    def check(self) -> None:
        """DataError unless the answers are complete, ordered, fed by knowledge, and changed by the feedback."""
        answer = self.first
        scores = [item["score"] for item in answer["items"]]
        schema = self._knowledge.schema(self._job.config.feature_schema)
        consulted = len(schema.user_knowledge) + len(schema.item_knowledge) * len(self._candidates)
        expectations = {
            "all candidates are answered": sorted(item["id"] for item in answer["items"]) == sorted(self._candidates),
            "scores fall": scores == sorted(scores, reverse=True),
            "ranks count from 1": [item["rank"] for item in answer["items"]] == list(range(1, len(scores) + 1)),
            "scores differ": len(set(scores)) > len(scores) // 2,
            "knowledge is fresh": answer["knowledge"] == {"fresh": consulted, "stale": 0, "missing": 0},
            "nothing is degraded": answer["degraded"] == [] == self.second["degraded"],
            "the language model answers": self.live is not None and bool(self.live.text.strip()),
            "feedback changes the scores": scores != [item["score"] for item in self.second["items"]],
        }
        failed = [name for name, holds in expectations.items() if not holds]
        if failed:
            raise DataError(f"demo-check failed: {'; '.join(failed)}")

    def _rank(self) -> dict[str, Any]:
        candidates = [{"id": item} for item in self._candidates]
        body = {"user_id": self._log.user_ids[self._user], "candidates": candidates, "deadline_ms": 2000}
        return self._answer("rank", body)

    def _answer(self, scope: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer of a route, which has the name of its scope. DataError if it is none."""
        response = self._client.post(f"/v1/{scope}", json=body)
        if response.status_code != 200:
            raise DataError(refusal(response, scope))
        answer: dict[str, Any] = response.json()
        return answer

    def _a_user(self) -> int:
        """A user with long-term knowledge and a taste that is neither all praise nor all blame."""
        partitions = np.diff(self._partitions.start)
        counts = np.bincount(self._log.user, minlength=len(partitions))
        liked = np.bincount(self._log.user, self._log.value > self._job.config.feature_schema.liked_above)
        balance = np.abs(liked / np.maximum(counts, 1) - 0.55)
        return int(np.argmin(np.where(partitions >= _PARTITIONS, balance, np.inf)))

    def _unseen(self, count: int) -> list[str]:
        """The most rated films that the user has not rated: what a retrieval stage might hand to a ranker."""
        log = self._log
        counts = np.bincount(log.item, minlength=len(log.item_ids))
        counts[log.item[log.by_user().of_user(self._user)]] = 0
        popular = [log.item_ids[item] for item in np.argsort(-counts, kind="stable") if counts[item]]
        return [item for item in popular if item in self._catalogue.items][:count]


@dataclass(frozen=True, slots=True)
class RunningService:
    """``python -m service`` and where it listens."""

    url: str
    process: subprocess.Popen[bytes]


def experiments(file: Path | None = None) -> dict[str, str]:
    """The service's setting for ``file``; without it for the environment's, or else the demo's if it is there."""
    if file is None and ("LORANK_EXPERIMENTS" in os.environ or not DEMO_EXPERIMENTS.is_file()):
        return {}
    return {"LORANK_EXPERIMENTS": str(file or DEMO_EXPERIMENTS)}


@contextmanager
def running_service(job: Job, port: int, settings: Mapping[str, str]) -> Iterator[RunningService]:
    """The service as a process of its own, ready; it is stopped at the end, and ends when we are killed. Port 0 is a
    free one. It serves the job's configuration; ``settings`` are further variables of its environment."""
    if not port:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    served = {"LORANK_DATA_DIR": str(job.data_dir), "LORANK_KEY_PREFIX": key_prefix(job.config.name)}
    environment = {**os.environ, **served, **settings, "LORANK_PORT": str(port)}
    with step("service") as watch:
        process = subprocess.Popen(child_python("-m", "service"), env=environment)
        running = RunningService(f"http://127.0.0.1:{port}", process)
        try:
            _await_ready(running)
            watch.done(f"ready on {running.url}")
            yield running
        finally:
            running.process.terminate()
            try:
                running.process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()


def _await_ready(service: RunningService) -> None:
    until = time.monotonic() + _READY_SECONDS
    while time.monotonic() < until:
        if service.process.poll() is not None:
            raise DataError(f"the service ended with status {service.process.returncode} before it was ready")
        with suppress(httpx2.TransportError):  # not listening yet
            if httpx2.get(f"{service.url}/readyz", timeout=1.0).status_code == 200:
                return
        time.sleep(0.05)
    raise DataError(f"the service was not ready within {_READY_SECONDS:.0f} s")
