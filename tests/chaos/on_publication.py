"""A publication by the jobs' own code is killed at ten moments, beside a service that serves what was published.

Releases differ in their model and in the features of their items, and both move every score by an amount of their own:
a score of one release's model and another's items is nobody's.
"""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
import os
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.split_model import parts_folder
from tests.chaos.on_redis import DEADLINE_MS, serve
from tests.chaos.rows import UNHINDERED, Goal, Outcome, row
from tests.chaos.stand import PREFIX, Stand, url_of
from tests.service.tiny import TinyItem
from tests.service.tiny_model import FACTS_SPACE, ITEM_SPACE, PORTRAIT_SPACE, SCHEMA, USER_SPACE, model_bytes

KILLS = 10

ITEMS = tuple(TinyItem(name, rating=float(at + 1)) for at, name in enumerate("abcde"))
GENRES = (["drama"], ["drama", "horror"])
"""Of all items in a release of even number, and in one of odd number."""

MODELS = [0.19 * number - 1.1 for number in range(KILLS + 2)]
"""What the model of each release adds to the logit of every score."""

_FIELDS = [sum(SCHEMA.encode_item_fields({"genre": genres})) for genres in GENRES]

OFFSETS = [model + 0.1 * (_FIELDS[number % 2] - _FIELDS[0]) for number, model in enumerate(MODELS)]
"""What each release as a whole adds."""


def publish(number: int, url: str, data: Path, die_at: int | None, moments: Connection) -> None:
    """Publish the release of a number. Tells how many moments that had, if the process lives."""
    import redis

    from offline.publish.bulk import Bulk
    from offline.publish.connection import open_store
    from offline.publish.publish import publish
    from offline.publish.release import live_release
    from tests.offline.kill_child import Ticking

    ticking, redis_class, pipeline = Ticking(die_at), redis.Redis, redis.client.Pipeline
    with (
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("LORANK_REDIS_URL", url)
        patch.setenv("LORANK_KEY_PREFIX", PREFIX)
        patch.setenv("LORANK_ARTIFACTS", str(data / "artifacts"))
        contents = contents_of(number, data / "models")
        patch.setattr(os, "replace", ticking.around(os.replace))
        patch.setattr(redis_class, "execute_command", ticking.around(redis_class.execute_command))
        patch.setattr(pipeline, "execute", ticking.around(pipeline.execute))
        patch.setattr(Bulk, "exchange", ticking.around(Bulk.exchange))
        with open_store(data, "chaos") as store:
            published = publish(config(data), store, contents)
            assert live_release(store) == published.release
    moments.send(ticking.count)


def config(data: Path) -> Any:
    """Of the jobs."""
    from tests.synthetic import job_config

    return job_config(data / "work").model_copy(update={"name": "chaos", "feature_schema": SCHEMA})


def contents_of(number: int, models: Path) -> Any:
    """The release of a number, as the jobs would have made it: ten users rate each item as ``ITEMS`` says."""
    from offline.data.catalogue import Catalogue
    from offline.data.log import InteractionLog
    from offline.knowledge.vectors import ItemVectors, Knowledge, Produced, UserVectors
    from offline.publish.staging import Contents
    from offline.training.report import TrainingReport
    from tests.parts import write_parts

    ids = [item.id for item in ITEMS]
    rows = [(f"log-{at}", item.id, item.rating, 1000 + at) for at in range(10) for item in ITEMS]
    log = InteractionLog.sorted_by_time(rows, [f"log-{at}" for at in range(10)], ids)
    nobody = functools.partial(
        UserVectors, start=np.zeros(len(log.user_ids) + 1, np.int64), since=np.zeros(0, np.int64)
    )
    of_items = {
        space.name: ItemVectors.of_texts(
            space, np.zeros((len(ids), space.dim), np.float32), np.ones(len(ids), np.bool_)
        )
        for space in (ITEM_SPACE, FACTS_SPACE)
    }
    of_users = {
        space.name: nobody(space, np.zeros((0, space.dim), np.float32)) for space in (USER_SPACE, PORTRAIT_SPACE)
    }
    producers = {name: Produced(of_users.get(name), of_items.get(name)) for name in (*of_items, *of_users)}
    content = model_bytes(offset=MODELS[number])
    artifact = models / f"tiny-{number}.onnx"
    models.mkdir(parents=True, exist_ok=True)
    artifact.write_bytes(content)
    report = TrainingReport(
        log_rows=len(log), trained_rows=len(log), trained_until_ms=0, samples={}, artifact=artifact.name,
        sha256=hashlib.sha256(content).hexdigest(), model_version=str(number), parity=0.0, metrics={}, table=[],
        parts=write_parts(content, parts_folder(artifact)), architecture="din",
    )  # fmt: skip
    catalogue = Catalogue(users={}, items={name: {"genre": GENRES[number % 2]} for name in ids})
    return Contents(catalogue, log, Knowledge(producers), report, models)


class Publications:
    """Publications of numbered releases, each in a process forked from one in which everything is imported already."""

    def __init__(self, url: str, data: Path) -> None:
        self._url, self._data = url, data
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__, "tests.offline.kill_child", "offline.publish.publish", "faiss"])

    def publish(self, number: int, die_at: int | None = None) -> int:
        """How many moments it had; 0 if it died."""
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=publish, args=(number, self._url, self._data, die_at, sender))
        process.start()
        sender.close()
        try:
            moments = int(receiver.recv())
        except EOFError:
            moments = 0
        process.join()
        receiver.close()
        assert process.exitcode == (0 if die_at is None else -9), f"a publication ended with {process.exitcode}"
        return moments


@row("Publication", f"killed (SIGKILL) at {KILLS} moments from its first to its last, each time of another release, "
     "and run again: all of the former release or all of the new one", Goal(added=UNHINDERED))  # fmt: skip
def publication_killed(stand: Stand) -> Outcome:
    server = stand.valkey()
    publications = Publications(url_of(server), stand.folder / "data")
    publications.publish(0)
    moments = publications.publish(1)
    stand.store_users(stand.publisher(server.client))
    service = serve(stand, url_of(server))
    traffic = stand.traffic(service, items=ITEMS, offsets=OFFSETS, deadline_ms=DEADLINE_MS)
    with traffic.trouble():
        for kill in range(KILLS):
            publications.publish(kill + 2, die_at=(2 * kill + 1) * moments // (2 * KILLS))
            stand.wait(0.5)
            publications.publish(kill + 2)
    traffic.settle()
    version = service.status()["release"]["model"]["version"]
    missed = () if version == str(KILLS + 1) else (f"model {version} is served in the end, not {KILLS + 1}",)
    return traffic.outcome(
        missed=missed, remark=f"of {moments} moments: before and after each command to Redis and each file"
    )
