"""An installation in which everything that a job stores is stored of two users with names of their own."""

from __future__ import annotations

import itertools
import json
import shutil
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.contract.events import EVENT_BYTES
from models.contract.exposures import Exposure
from models.contract.forgetting import Tombstone
from models.contract.keys import Keys
from models.contract.requests import JobRequest, ReportKind, RequestKind, RequestState
from offline.data.dataset import BAD_ROWS
from offline.data.files import append_line, write_arrays, write_bytes
from offline.data.log import InteractionLog
from offline.data.rebuild import copy_beside
from offline.data.texts_import import ImportedTexts, UserText
from offline.jobs.ledger import LEDGER
from offline.knowledge.run import ENCODED, OWNERS
from offline.knowledge.vectors import Produced
from offline.llm.account import CACHE_FILE
from offline.publish.archive import archive
from offline.publish.connection import Store, open_store
from offline.publish.requests import publish_report, write_request
from offline.publish.tombstones import write_tombstones
from offline.publish.undo import JOURNAL_FILE
from offline.store import ArrayFile, ArrayFolder, addresses, owner_mark, owner_table
from offline.training.samples import split_samples
from tests.offline.forgetting.search import hits, needles_of
from tests.offline.pipeline import LATER_MS, Pipeline, patched, pipeline

U, V = "wéndelin.o7q{3}", "vroni.x9z"
"""The user who is forgotten, and another one."""

UNIT = "device-of-w%7"
"""A unit with which U alone came."""

BOTH = f"{V} and {U}"
_NAMES = {"u3": U, "u4": V}
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Populated:
    """``needles`` of each of the two users."""

    pipeline: Pipeline
    needles: Mapping[str, list[bytes]]

    def hits(self, user: str = U) -> Mapping[str, set[bytes]]:
        installation = self.pipeline
        folders = [installation.folder / "work", installation.folder / "artifacts", installation.folder / "data"]
        client = installation.redis
        try:
            return hits(self.needles[user], [each for each in folders if each.is_dir()], client, installation.prefix)
        finally:
            client.close()

    def ask(self, user: str = U, *, opt_out: bool = False) -> JobRequest:
        """What the service does first: tombstone and receipt."""
        with self.store() as store:
            now = time.time_ns() // 1_000_000
            write_tombstones(store, {user: Tombstone(forgotten_ms=now, opted_out=opt_out)})
            request = JobRequest.new(RequestKind.FORGET, user)
            write_request(store, request)
        return request

    def receipt(self, request: JobRequest) -> JobRequest:
        stored = self.stored_request(request.id.encode())
        assert stored is not None
        return stored

    def stored_request(self, name: bytes) -> JobRequest | None:
        with self.store() as store:
            document: Any = store.redis.get(store.keys.request(name.decode()))
        return None if document is None else JobRequest.model_validate_json(document)

    def store(self) -> Any:
        return open_store(self.pipeline.job.data_dir, self.pipeline.config.name)

    def of_v(self) -> dict[str, Any]:
        """All that is stored of the other user, but for numbers of rows."""
        job = self.pipeline.job
        log = InteractionLog.load(job.log)
        mine = log.by_user().of_user(log.user_ids.index(V))
        stored: dict[str, Any] = {
            "rows": [(log.item_ids[log.item[row]], float(log.value[row]), int(log.time_ms[row])) for row in mine],
            "mark": log.stream_mark,
        }
        produced = Produced.load(job.knowledge / "liber")
        assert produced.users is not None
        assert produced.lineage is not None
        assert produced.lineage.fits(log)
        at, end = produced.users.start[log.user_ids.index(V) :][:2]
        stored["knowledge"] = produced.users.vectors[at:end].tobytes()
        stored["closed"] = [int((mine <= since).sum()) for since in produced.users.since[at:end].tolist()]
        stored["texts"] = produced.texts[V]
        stored["answers"] = answers_of(job.llm / CACHE_FILE, V)
        vectors = ArrayFile(job.knowledge / ENCODED).read()
        stored["encoded"] = {
            key: vectors[key].tobytes() for key in keys_of(job.knowledge / OWNERS, V) if key in vectors
        }
        client, tag = self.pipeline.redis, f"{self.pipeline.prefix}:{{u:{V}}}:"
        keys: Any = client.keys(f"{tag}*")
        for key in keys:
            stored[key.decode().removeprefix(tag)] = client.dump(key)
        client.close()
        return stored


def keys_of(path: Path, user: str) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT key FROM owners WHERE owner = ? ORDER BY key"
        return [key for (key,) in connection.execute(query, (owner_mark(user),)).fetchall()]


def answers_of(path: Path, user: str) -> dict[str, str]:
    """Answers about a user, by key."""
    with closing(sqlite3.connect(path)) as connection:
        stored = dict(connection.execute("SELECT key, text FROM answers").fetchall())
    return {key: stored[key] for key in keys_of(path, user) if key in stored}


def populate(installation: Pipeline) -> Populated:
    """Two refreshes, of which the second changes the knowledge of both users, and whatever else a job may store."""
    for name in ("interactions.csv", "users.csv"):
        path = installation.folder / name
        lines = [line.split(",") for line in path.read_text().splitlines()]
        path.write_text("".join(",".join(_NAMES.get(cell, cell) for cell in line) + "\n" for line in lines))
    job = installation.job
    (job.raw).mkdir(parents=True)
    installation.refresh()
    (installation.folder / "work" / "models" / ".report.json.abcd_123").write_text(U)  # of a run that was killed
    log = InteractionLog.load(job.log)
    texts = (UserText(user, None, f"A reader of {user} and of much else.", len(log)) for user in (U, V))
    ImportedTexts({}, tuple(texts)).save(job.imported)
    for user in (U, V):
        installation.close_partition_of(user, LATER_MS)
    with open_store(job.data_dir, job.config.name) as store:
        show(store)
        installation.refresh()
        copy_beside(job.log)
        archive(store, job.config.workdir / "exposures", ())
        archive(store, job.config.workdir / "replay" / "exposures", ())
    shutil.copy(job.config.workdir / JOURNAL_FILE, job.config.workdir / "replay")
    (job.config.workdir / "replay" / ".undo.json.abcd_123").write_text(U)  # of a replay that was killed
    for folder in (job.config.workdir / "exposures", job.config.workdir / "replay" / "exposures"):
        for part in [*folder.rglob("part-*.parquet")]:  # of runs that were killed
            (part.parent / f".{part.name}.abcd_123").write_bytes(part.read_bytes())
    log = InteractionLog.load(job.log)
    rows = split_samples(job.config.samples, log).rows["test"]
    write_arrays(job.models / "test_predictions.npz", rows=rows, label=log.value[rows], baseline=log.value[rows])
    _leave_what_former_versions_left(installation)
    states = ArrayFolder(job.knowledge / "marc" / "states" / "model" / "depth-0.5000")
    text_of = {user: f"{Produced.load(job.knowledge / 'liber').texts[user]} read" for user in (U, V)}
    with owner_table(job.knowledge / OWNERS) as owners:
        for user, text in text_of.items():
            (key,) = addresses([text], "model")
            states.add({key: np.arange(4, dtype=np.float16) + len(user)})
            owners.note([(key, owner_mark(user))])
    return Populated(installation, {user: _needles(installation, user) for user in (U, V)})


def _leave_what_former_versions_left(installation: Pipeline) -> None:
    """Words that quoted both users, in the ledger, in Redis and in the list of bad rows."""
    job = installation.job
    lines = ["rule,file,row,column,value,note"]
    for user in (U, V):
        lines.append(f"id_type,a.csv,3,user,{user},")
        lines.append(f"row_shape,a.csv,4,,\"['{user}', 'i1']\",2 fields")
        lines.append(f'quotes,a.csv,5,,"{user}""",')
    write_bytes(job.raw / BAD_ROWS, "".join(f"{line}\n" for line in lines).encode())
    for user in (U, V):
        words = f"the data cannot be used: id_repeated: users.csv, row 4, column 'id': {user!r}"
        ended = {"run": f"of-{user[0]}", "job": "refresh", "config": job.config.name, "status": "failed"}
        append_line(
            job.config.workdir / LEDGER,
            json.dumps(ended | {"reasons": [f"DataError: {words}"]}, ensure_ascii=False),
        )
        with open_store(job.data_dir, job.config.name) as store:
            failed = JobRequest.new(RequestKind.DRY_RUN).changed(RequestState.FAILED, note=f"DataError: {words}")
            write_request(store, failed)
            warning = f"user_undescribed: interactions.csv, row 4: {user!r}"
            publish_report(store, ReportKind.DRY_RUN, failed.id, {"lines": [f"  warning: {warning}"]})


def show(store: Store) -> None:
    """Exposures and sticky arms, as a service writes them."""
    for at, (user, unit) in enumerate(((U, U), (U, UNIT), (V, V))):
        exposure = Exposure(
            request_id=f"r{at}", user_id=user, unit=unit, time_ms=LATER_MS, release="r", arms=(), knowledge=True,
            degraded=(), latency_ms=1.0, candidates=1, items=("i1",), scores=(0.5,), history_events=0,
            history_digest="0", context={"note": f"shown to {user}"},
        )  # fmt: skip
        fields: Any = exposure.to_stream()
        store.redis.xadd(store.keys.exposures, fields)
        store.redis.hset(store.keys.unit_arms(unit), mapping={"e__1": "a"})


def _needles(installation: Pipeline, user: str) -> list[bytes]:
    """Ids, texts, addresses, vectors and packed events of a user."""
    job = installation.job
    produced, log = Produced.load(job.knowledge / "liber"), InteractionLog.load(job.log)
    answers = answers_of(job.llm / CACHE_FILE, user)
    owned = keys_of(job.knowledge / OWNERS, user)
    assert produced.users is not None
    number = log.user_ids.index(user)
    start, end = produced.users.start[number : number + 2]
    assert len(answers) >= 4
    assert end - start >= 3
    assert len(owned) >= 4
    client, keys = installation.redis, Keys(installation.prefix)
    history: Any = client.get(keys.user_history(user))
    client.close()
    events = [history[at : at + EVENT_BYTES] for at in range(0, len(history), EVENT_BYTES)]
    escaped = keys.user_profile(user).partition("{u:")[2].partition("}:")[0]
    texts = [user, escaped, produced.texts[user], *answers.values(), *owned, owner_mark(user)]
    texts += [UNIT, UNIT.replace("%", "%25")] if user == U else []
    encoded = ArrayFile(job.knowledge / ENCODED).read()
    vectors = [encoded[key].tobytes() for key in owned if key in encoded]
    # answers stay known by a hash of their prompt, so that no shipped file brings them back
    return needles_of(texts, [*vectors, *events, *(row.tobytes() for row in produced.users.vectors[start:end])])


@pytest.fixture(scope="session")
def populated_once(tmp_path_factory: pytest.TempPathFactory, shared_valkey: str) -> Populated:
    installation = pipeline(tmp_path_factory.mktemp("populated"), shared_valkey, "populated")
    with pytest.MonkeyPatch.context() as patch:
        patched(patch, installation)
        return populate(installation)


@pytest.fixture
def populated(populated_once: Populated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Populated:
    """A copy of the populated installation."""
    copy = populated_once.pipeline.copy(tmp_path / "populated", f"populated-{next(_numbers)}").copy_of_the_files()
    patched(monkeypatch, copy)
    with closing(sqlite3.connect(copy.config.workdir / JOURNAL_FILE)) as journal:  # its keys are those of the original
        prefixes = (f"{populated_once.pipeline.prefix}:", f"{copy.prefix}:")
        journal.execute("UPDATE records SET key = replace(key, ?, ?)", prefixes)
        journal.commit()
    return Populated(copy, populated_once.needles)
