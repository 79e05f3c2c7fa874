"""Replay of logged requests: does the service answer what the model, run by torch on the jobs' own data, would?

The user's history and knowledge are rebuilt from the interaction log and the knowledge files, not read from Redis, so
a difference anywhere between the jobs' data and the served score shows: packing, publishing, reading, encoding, export.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import numpy as np
import torch

from models.contract.encoding import ItemBatch, UserBatch, encode
from models.contract.events import EVENT_DTYPE, item_hash
from models.contract.exposures import Exposure, history_digest
from models.contract.items import ItemTable
from offline.data.catalogue import DataError
from offline.data.dataset import open_dataset
from offline.data.log import InteractionLog
from offline.jobs.calls import authorization, refusal
from offline.jobs.steps import Job
from offline.knowledge.run import load_knowledge
from offline.knowledge.vectors import Knowledge
from offline.publish.connection import open_store
from offline.publish.features import packed_histories
from offline.publish.release import live_release, read_manifest, read_model, refusal_line, refused_model
from offline.publish.streams import exposures
from offline.training.report import TrainingReport
from offline.training.run import load_served
from offline.training.samples import SampleEncoder
from offline.training.statistics import statistics_until

TOLERANCE = 1e-5
_WAIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Verification:
    """``skipped`` requests had a history that the jobs have not seen yet (feedback since the last refresh), belong to
    another release, were answered degraded, or merge the orders of two arms."""

    requests: int
    scores: int
    skipped: int
    worst: float
    asked_for: int

    @property
    def passed(self) -> bool:
        return self.requests >= self.asked_for and self.worst < TOLERANCE

    def summary(self) -> str:
        verdict = "equal" if self.passed else "NOT shown to be equal"
        return (
            f"{self.requests} logged requests with {self.scores} scores compared with torch: {verdict}, "
            f"largest difference {self.worst:.2e} (allowed {TOLERANCE:.0e}); "
            f"{self.skipped} skipped, {self.asked_for} wanted"
        )


def verify(job: Job, url: str | None, count: int) -> Verification:
    """Compare the newest ``count`` comparable exposures; with ``url``, send as many requests first."""
    log, report = InteractionLog.load(job.log), TrainingReport.load(job.models / "report.json")
    knowledge = load_knowledge(job.knowledge, job.config.feature_schema, log)
    if url is not None:
        send(url, log, count)
    with open_store(job.data_dir, job.config.name) as store:
        live = live_release(store)
        until = time.monotonic() + _WAIT_SECONDS  # exposures are written in the background
        while True:
            logged = [exposure for exposure in exposures(store) if exposure.release == live]
            if url is None or len(logged) >= count or time.monotonic() >= until:
                break
            time.sleep(0.2)
        if live is not None and read_manifest(store, live).artifact_sha256 != report.sha256:
            refused = refused_model(store)
            why = "it was rolled back to" if refused is None else refusal_line(refused)
            raise DataError(f"release {live} is not the model that was trained last: {why}")
    replay = _Replay(job, report, log, knowledge)
    compared, scores, skipped, worst = 0, 0, 0, 0.0
    for exposure in reversed(logged):
        if compared == count:
            break
        difference = replay.difference(exposure)
        if difference is None:
            skipped += 1
            continue
        compared, scores, worst = compared + 1, scores + len(exposure.items), max(worst, difference)
    return Verification(compared, scores, skipped, worst, count)


class _Replay:
    """The live release, rebuilt from the jobs' files."""

    def __init__(self, job: Job, report: TrainingReport, log: InteractionLog, knowledge: Knowledge) -> None:
        self._schema = read_model(job.models / report.artifact).feature_schema
        self._log, self._knowledge = log, knowledge
        self._catalogue = open_dataset(job.config.data, job.raw).catalogue()
        encoder = SampleEncoder(self._schema, self._catalogue, log, knowledge, report.trained_rows)
        self._model = load_served(job.config, report, encoder, job.models)
        self._table: ItemTable = encoder.table_with(statistics_until(self._schema, log, len(log)))
        self._index = log.by_user()
        self._users = {user: at for at, user in enumerate(log.user_ids)}
        self._hashes = np.fromiter((item_hash(item) for item in log.item_ids), np.uint64, len(log.item_ids))

    def difference(self, exposure: Exposure) -> float | None:
        """Largest difference of one exposure's scores, or None if the jobs cannot rebuild what the model saw."""
        at = self._users.get(exposure.user_id)
        events = np.zeros(0, EVENT_DTYPE)
        if at is not None:
            (packed,) = packed_histories(self._log, self._index, self._hashes, [at], self._schema.history_length)
            events = np.frombuffer(packed, EVENT_DTYPE)
        if (
            exposure.teams
            or exposure.degraded
            or exposure.item_features
            or history_digest(events) != exposure.history_digest
        ):
            return None
        features = dict(self._catalogue.users.get(exposure.user_id, {}))
        known = {} if at is None else self._knowledge.of_user(at)
        users = UserBatch.single(self._schema, self._table, features, events, known, exposure.time_ms)
        items = ItemBatch.gather(self._table, self._table.rows_of(exposure.items))
        tensors = encode(self._schema, self._table, users, items, knowledge=exposure.knowledge)
        with torch.inference_mode():
            logits = self._model({name: torch.from_numpy(array) for name, array in tensors.items()})
        return float(np.abs(torch.sigmoid(logits).numpy() - np.array(exposure.scores, np.float32)).max())


def send(url: str, log: InteractionLog, count: int) -> None:
    """Send ``bodies`` to a service. DataError if one of them is not answered."""
    with httpx2.Client(base_url=url, timeout=10.0, headers=authorization()) as client:
        for body in bodies(log, count):
            response = client.post("/v1/rank", json=body)
            if response.status_code != 200:
                raise DataError(refusal(response, "rank"))


def bodies(log: InteractionLog, count: int) -> Iterator[dict[str, Any]]:
    """``count`` bodies of rank requests: of known and unknown users, with 5 to 100 candidates each, if there are so
    many, and an unknown one now and then."""
    generator = random.Random(7)
    for number in range(count):
        user = generator.choice(log.user_ids) if generator.random() < 0.95 else f"unknown-{number}"
        items = generator.sample(log.item_ids, min(generator.randint(5, 100), len(log.item_ids)))
        items += [f"unknown-{number}"] if generator.random() < 0.1 else []
        yield {"user_id": user, "candidates": [{"id": item} for item in items], "deadline_ms": 2000}
