"""Worlds that are published to a Redis of their own, with bodies of requests to them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import redis

from bench.serving.world import World, job_of, publish_world
from models.contract.keys import Keys
from models.valkey.embedded import embedded_redis
from offline.publish.connection import Store

SERVER_CORE, LOAD_CORE = 0, 1
"""Redis runs on the latter, too."""

BODIES = 200
TOP_50: Mapping[str, int] = {"top_k": 50}
CANDIDATES = 500
"""Of a request, where nothing else is said."""

LARGE_SPACES = ("text", "autograph", "marc")
"""Of the world of many items."""


class CannotMeasureError(RuntimeError):
    """A part cannot be measured here; the message says why."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how often to measure: ``rounds`` of ``seconds`` each for what is compared in alternation;
    ``steady_seconds`` at one rate of arrivals; ``many`` requests at one go; ``items`` of the world that is large,
    ``item_counts`` and ``user_counts`` of those that are compared."""

    name: str
    rounds: int
    seconds: float
    steady_seconds: float
    many: int
    items: int
    item_counts: tuple[int, ...]
    user_counts: tuple[int, ...]


FULL = Effort("full", 5, 2.0, 15.0, 100_000, 1_000_000, (10_000, 100_000, 1_000_000), (1_000, 10_000, 100_000))
QUICK = Effort("quick", 2, 0.7, 3.0, 2_000, 20_000, (10_000, 20_000), (1_000, 2_000))
"""In full, or quickly, to see that it runs: quick numbers mean nothing."""


@dataclass(frozen=True, slots=True)
class Installed:
    """A world in Redis. ``folder`` is for whatever the benchmark needs beside it."""

    world: World
    url: str
    store: Store
    folder: Path

    @property
    def history_length(self) -> int:
        """Events that the model reads."""
        return job_of(self.world, self.folder).feature_schema.history_length

    def bodies(self, name: str, count: int, users: Sequence[str] = (), more: Mapping[str, int] = TOP_50) -> Path:
        """A file of requests with ``count`` random candidates each, one for every user: of random users if none are
        given. The same arguments give the same requests."""
        random = np.random.default_rng([1, count])
        if not users:
            chosen = random.choice(self.world.users, min(BODIES, self.world.users), replace=False)
            users = [self.world.user_ids[at] for at in chosen]
        lines = []
        for user in users:
            items = random.choice(self.world.items, min(count, self.world.items), replace=False)
            lines.append(json.dumps({"user_id": user, "candidates": [{"id": f"i{at}"} for at in items], **more}))
        path = self.folder / f"bodies-{name}-{count}.jsonl"
        path.write_text("\n".join(lines))
        return path


@dataclass(frozen=True, slots=True)
class Workbench:
    """Things that the parts of a benchmark share. ``peers`` is the Python of an environment with other frameworks and
    py-spy (bench/requirements.txt), if there is one. Worlds are made when they are first asked for."""

    effort: Effort
    peers: Path | None
    scratch: Path
    stack: ExitStack
    _worlds: dict[World, Installed] = field(default_factory=dict)

    def world(self, world: World) -> Installed:
        if world not in self._worlds:
            folder = self.scratch / f"world-{len(self._worlds)}"
            folder.mkdir()
            self._worlds[world] = self.stack.enter_context(installed(world, folder))
        return self._worlds[world]

    def large_world(self) -> Installed:
        return self.world(World(items=self.effort.items, spaces=LARGE_SPACES))


@contextmanager
def installed(world: World, scratch: Path) -> Iterator[Installed]:
    """The world, published by the jobs. Its Redis writes nothing to disk: in a real installation it would not do so on
    the machine that is measured."""
    with embedded_redis(scratch / "valkey") as url, redis.Redis.from_url(url) as client:
        client.config_set("appendonly", "no")
        info: Any = client.info("server")
        os.sched_setaffinity(int(info["process_id"]), {LOAD_CORE})
        (scratch / "artifacts").mkdir()
        # what earlier versions serve, too, from the same folder: bench/serving/versions.py measures them
        store = Store(client, Keys("lorank"), scratch / "artifacts", url)
        publish_world(world, store, scratch / "jobs")
        yield Installed(world, url, store, scratch)
