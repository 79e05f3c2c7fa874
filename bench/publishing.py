"""Cost of publishing a million records of each kind: the first time, with nothing changed, with 1 % changed.

usage: .venv/bin/python -m bench.publishing [--records 1000000]

The functions that publications call write to an embedded Valkey. It runs on core 1, this program on core 0. The last
line of the output is a JSON document of all figures. Records per second are by the clock on the wall, and by this
program's processor time; "server" is the processor time of Valkey, without that of rewriting its append-only file,
which happens on the same core.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import redis

from models.contract.arrays import FloatArray
from models.contract.items import item_statistics
from models.contract.keys import Keys
from models.contract.knowledge import Space
from models.contract.schema import FeatureSchema, FieldSpec
from models.valkey.embedded import embedded_redis
from offline.data.catalogue import Catalogue
from offline.data.log import InteractionLog
from offline.knowledge.vectors import ItemVectors, UserVectors
from offline.publish.connection import Store
from offline.publish.features import write_histories, write_items, write_profiles
from offline.publish.knowledge import KnowledgeWriter, entries, owners
from offline.publish.records import WriteCache, Written

DIM, EVENTS, EVERY = 32, 10, 100
"""Numbers of a vector, events of a user, and how many records there are for one that changes."""

TTL_SECONDS = 30 * 86_400
GENRES = tuple(f"genre {at}" for at in range(18))
SCHEMA = FeatureSchema(
    name="bench",
    user_fields=(FieldSpec(name="age", edges=(25, 45)),),
    item_fields=(
        FieldSpec(name="genres", vocab=GENRES, slots=6),
        FieldSpec(name="year", edges=tuple(range(1930, 2005, 5))),
    ),
    history_length=EVENTS,
)


@dataclass(frozen=True, slots=True)
class World:
    """All that is published."""

    catalogue: Catalogue
    log: InteractionLog
    users: UserVectors
    items: ItemVectors
    numeric: FloatArray

    @classmethod
    def of(cls, records: int) -> World:
        """``records`` users and as many items."""
        generator = np.random.default_rng(0)
        users, items = (tuple(f"{side}-{at:07d}" for at in range(records)) for side in ("user", "item"))
        years, counts = generator.integers(1930, 2005, records).tolist(), generator.integers(1, 4, records).tolist()
        drawn = generator.integers(0, len(GENRES), (records, 3)).tolist()
        catalogue = Catalogue(
            users={user: {"age": 20 + at % 50, "gender": "F", "occupation": "writer"} for at, user in enumerate(users)},
            items={
                item: {"title": item, "year": year, "genres": [GENRES[genre] for genre in genres[:count]]}
                for item, year, count, genres in zip(items, years, counts, drawn, strict=True)
            },
        )
        rows = records * EVENTS
        log = InteractionLog(
            users,
            items,
            user=np.tile(np.arange(records, dtype=np.int32), EVENTS),
            item=generator.integers(0, records, rows, dtype=np.int32),
            value=generator.integers(1, 6, rows).astype(np.float32),
            time_ms=np.arange(rows, dtype=np.int64),
            sampled=np.zeros(rows, np.bool_),
        )
        vectors = generator.normal(size=(records, DIM)).astype(np.float32)
        start, once = np.arange(records + 1), np.zeros(records, np.int64)
        known = np.ones(records, np.bool_)
        return cls(
            catalogue,
            log,
            UserVectors(space_of("user"), vectors, start, once),
            ItemVectors.of_texts(space_of("item"), generator.normal(size=(records, DIM)).astype(np.float32), known),
            item_statistics(SCHEMA, np.full(records, EVENTS), np.zeros(records), np.arange(records) % EVENTS),
        )

    def changed(self) -> World:
        """The same, but one of ``EVERY`` records of each kind says something else."""
        users, items, numeric = self.users.vectors.copy(), self.items.vectors.copy(), self.numeric.copy()
        for numbers in (users, items[-1], numeric):
            numbers[::EVERY] += 1
        profiles = dict(self.catalogue.users)
        for name in self.log.user_ids[::EVERY]:
            profiles[name] = {**profiles[name], "age": 99}
        log = self.log
        who = np.arange(0, len(log.user_ids), EVERY, dtype=np.int32)
        grown = replace(
            log,
            user=np.concatenate([log.user, who]),
            item=np.concatenate([log.item, who]),
            value=np.concatenate([log.value, np.ones(len(who), np.float32)]),
            time_ms=np.concatenate([log.time_ms, len(log) + np.arange(len(who))]),
            sampled=np.zeros(len(log) + len(who), np.bool_),
        )
        return World(
            replace(self.catalogue, users=profiles),
            grown,
            replace(self.users, vectors=users),
            replace(self.items, vectors=items),
            numeric,
        )


def space_of(side: str) -> Space:
    return Space.model_validate({"name": "bench", "side": side, "rows": 1, "dim": DIM, "components": {}})


def write_kind(store: Store, kind: str, world: World, write_cache: WriteCache) -> Written:
    log = world.log
    match kind:
        case "user knowledge":
            packed = entries(world.users, log.user_ids, owners(world.users, log.user_ids))
            return KnowledgeWriter(store, world.users.space, TTL_SECONDS, write_cache).write(packed, len(log.user_ids))
        case "item knowledge":
            packed = entries(world.items, log.item_ids, owners(world.items, log.item_ids))
            return KnowledgeWriter(store, world.items.space, TTL_SECONDS, write_cache).write(packed, len(log.item_ids))
        case "item features":
            index = range(1, len(log.item_ids) + 1)
            return write_items(store, "bench", SCHEMA, world.catalogue, log.item_ids, index, world.numeric)
        case "user profiles":
            return write_profiles(store, world.catalogue, log, write_cache)
    return write_histories(store, log, EVENTS + 1, write_cache)


RECORD_KINDS = ("user knowledge", "item knowledge", "item features", "user profiles", "user histories")


@dataclass(frozen=True, slots=True)
class Run:
    """A publication of records of one kind. ``waited`` is for how long this program or the server was ready to run and
    had no core: what others on this machine took away. ``keys_read`` counts keys, not commands."""

    written: int
    unchanged: int
    seconds: float
    cpu_seconds: float
    waited_seconds: float
    server_cpu_seconds: float
    server_waited_seconds: float
    per_second: int
    cpu_per_second: int
    sets: int
    keys_read: int


def measured_run(client: redis.Redis, act: Callable[[], Written]) -> Run:
    before, start = counters(client), time.perf_counter()
    done = act()
    wall = time.perf_counter() - start
    cpu, waited, server_cpu, server_waited, sets, reads = (
        late - early for late, early in zip(counters(client), before, strict=True)
    )
    records = done.written + done.unchanged
    return Run(
        done.written, done.unchanged, round(wall, 3), round(cpu, 3), round(waited, 3), round(server_cpu, 3),
        round(server_waited, 3), round(records / wall), round(records / cpu), round(sets), round(reads),
    )  # fmt: skip


def counters(client: redis.Redis) -> tuple[float, ...]:
    """(seconds of processor time and of waiting for a core, ours and the server's, SET commands, keys read) so far."""
    info: Any = client.info("everything")
    sets = info.get("cmdstat_set", {"calls": 0})["calls"]
    server = (info["used_cpu_user"] + info["used_cpu_sys"], _waited(info["process_id"]))
    return (time.process_time(), _waited("self"), *server, sets, info["keyspace_hits"] + info["keyspace_misses"])


def _waited(process: int | str) -> float:
    """0 where the system does not tell."""
    path = Path(f"/proc/{process}/schedstat")
    return int(path.read_text().split()[1]) / 1e9 if path.is_file() else 0.0


@contextmanager
def opened(folder: Path) -> Iterator[Store]:
    """A store in a Valkey that has the other core to itself, where there is another."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})  # the server inherits it
    with embedded_redis(folder / "valkey") as url:
        os.sched_setaffinity(0, {cores[0]})
        client = redis.Redis.from_url(url, socket_timeout=30.0)
        yield Store(client, Keys("bench"), folder / "artifacts", url)
        client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    records = parser.parse_args().records
    world = World.of(records)
    report: dict[str, Any] = {"records": records, "dim": DIM, "events": EVENTS, "kinds": {}, "bytes_per_record": {}}
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder)) as store:
        for name, stage in (("first", world), ("unchanged", world), ("one percent", world.changed())):
            write_cache = WriteCache(store, Path(folder) / "memo")
            for kind in RECORD_KINDS:
                before = int(store.redis.info("memory")["used_memory"])
                run = measured_run(store.redis, partial(write_kind, store, kind, stage, write_cache))
                after = int(store.redis.info("memory")["used_memory"])
                if name == "first":
                    report["bytes_per_record"][kind] = round((after - before) / records, 1)
                report["kinds"].setdefault(kind, {})[name] = asdict(run)
                print(
                    f"{kind:15} {name:12} {run.per_second:>9,}/s  cpu {run.cpu_per_second:>9,}/s  "
                    f"server {run.server_cpu_seconds / records * 1e6:5.2f} us, both waited "
                    f"{(run.waited_seconds + run.server_waited_seconds) / records * 1e6:5.2f} us  "
                    f"{run.sets:,} set, {run.keys_read:,} read",
                    flush=True,
                )
            write_cache.save()
    sizes = report["bytes_per_record"]
    report["bytes_per_user"] = round(sum(size for kind, size in sizes.items() if kind.startswith("user")), 1)
    report["bytes_per_item"] = round(sum(size for kind, size in sizes.items() if kind.startswith("item")), 1)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
