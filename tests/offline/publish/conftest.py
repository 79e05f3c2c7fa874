"""A real Valkey, a store with a prefix of its own per test, and a trained synthetic release."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import redis

from models.contract.artifact import ArtifactManifest
from models.contract.keys import PREFIXES
from models.contract.knowledge import Space
from models.contract.packing import KNOWLEDGE
from models.split_model import parts_folder
from offline.config import JobConfig, PublishConfig
from offline.knowledge.vectors import Knowledge, Produced
from offline.publish import release
from offline.publish.bulk import Bulk
from offline.publish.connection import Store, open_store
from offline.publish.producer import RolledBack, rollback_producer, served
from offline.publish.publish import Published, publish, publish_producer
from offline.publish.records import forget
from offline.publish.release import read_model
from offline.publish.staging import Contents
from offline.publish.undo import JOURNAL_FILE, Journal
from offline.training.report import TrainingReport
from offline.training.run import train
from tests.offline.graphs import popular
from tests.parts import write_parts
from tests.synthetic import Synthetic, synthetic

_numbers = itertools.count()


@pytest.fixture
def publish_valkey(valkey: str) -> str:
    """A database of its own in the server, because ``store`` lists all keys before and after each test."""
    return f"{valkey}?db=1"


@pytest.fixture
def store(publish_valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """As the jobs open it, under a prefix that no other test has; what lies outside of it must not change."""
    prefix = f"publish-{next(_numbers)}"
    monkeypatch.setenv("LORANK_REDIS_URL", publish_valkey)
    monkeypatch.setenv("LORANK_KEY_PREFIX", prefix)
    monkeypatch.delenv("LORANK_ARTIFACTS", raising=False)
    with open_store(tmp_path, "synthetic") as opened:
        before = keys_of(opened.redis)
        yield opened
        after = keys_of(opened.redis)
        assert {key for key in before ^ after if not key.startswith(f"{prefix}:")} <= {PREFIXES}


def keys_of(client: redis.Redis, pattern: str = "*") -> set[str]:
    return {key.decode() for key in client.scan_iter(match=pattern, count=10_000)}


def content_of(store: Store) -> dict[str, bytes]:
    """Every string key of the installation, with its value."""
    values: dict[str, bytes] = {}
    for key in keys_of(store.redis, f"{store.keys.prefix}:*") - {store.keys.changes, store.keys.user_spaces}:
        value: Any = store.redis.get(key)
        values[key] = value
    return values


def read(store: Store, key: str) -> bytes:
    blob: Any = store.redis.get(key)
    assert isinstance(blob, bytes), key
    return blob


def bytes_written(published: Published) -> int:
    """Bytes of all values that went to Redis."""
    return sum(count.size for count in published.records.values())


def workdir(store: Store) -> Path:
    return store.artifacts.parent / "work"


def roll_back(store: Store, name: str, end_change: Callable[[str, bool], None] | None = None) -> RolledBack:
    with Journal(workdir(store) / JOURNAL_FILE) as journal:
        return rollback_producer(store, journal, name, end_change or partial(release.end_change, store))


def knowledge_in(store: Store, *names: str) -> dict[str, bytes]:
    """Contents of the knowledge records of these producers, whenever they were written."""
    spaces = [space for name in names for space in served(store, name).values()]
    return {
        key: KNOWLEDGE.content(value) for key, value in content_of(store).items() if key.rpartition(":")[2] in spaces
    }


def sibling(store: Store, name: str) -> Store:
    """An empty store beside this one, with a work folder of its own."""
    keys = replace(store.keys, prefix=f"{store.keys.prefix}:{name}")
    return replace(store, keys=keys, artifacts=store.artifacts.parent / name / "artifacts")


class _Commands:
    """Counts what is sent to Redis, single commands and many at once, and dies of number ``kill``: half of the times
    before it was sent, half of the times after."""

    def __init__(self, kill: int | None = None) -> None:
        self.sent = 0
        self._kill = kill

    @contextmanager
    def installed(self) -> Iterator[_Commands]:
        with pytest.MonkeyPatch.context() as patch:
            sending = ((redis.Redis, "execute_command"), (redis.client.Pipeline, "execute"), (Bulk, "exchange"))
            for kind, name in sending:
                patch.setattr(kind, name, self._counted(getattr(kind, name)))
            yield self

    def _counted(self, send: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            number, self.sent = self.sent, self.sent + 1
            if number == self._kill and number % 2:
                raise KeyboardInterrupt
            answer = send(*args, **options)
            if number == self._kill:
                raise KeyboardInterrupt
            return answer

        return counted


def commands_of(act: Callable[[], object]) -> int:
    """How many commands and pipelines are sent meanwhile."""
    with _Commands().installed() as commands:
        act()
    return commands.sent


@contextmanager
def killed_at(point: int) -> Iterator[None]:
    with _Commands(point).installed():
        yield


def of_other_components(space: Space) -> Space:
    return Space.model_validate({**space.model_dump(), "components": {"made": "again"}})


@dataclass(frozen=True)
class Release:
    """A data set, and a model trained on it, ready to be published."""

    data: Synthetic
    report: TrainingReport
    models: Path

    @property
    def id(self) -> str:
        return f"synthetic-{self.report.sha256[:12]}"

    @property
    def artifact(self) -> ArtifactManifest:
        """The manifest inside the model."""
        return read_model(self.models / self.report.artifact)

    def config(self, store: Store) -> JobConfig:
        """The configuration, with a work folder that goes with the store."""
        return self.data.config.model_copy(update={"workdir": workdir(store)})

    def publish(
        self,
        store: Store,
        *,
        users: Collection[int] | None = None,
        return_to: bool = False,
        accept: bool = False,
        verify: bool = False,
    ) -> Published:
        data = self.data
        contents = Contents(data.catalogue, data.log, data.knowledge, self.report, self.models)
        if verify:  # read every record
            forget(store)
        return publish(self.config(store), store, contents, users=users, return_to=return_to, accept=accept)

    def publish_alone(self, store: Store, name: str, *, return_to: bool = False) -> Published:
        produced = self.data.knowledge.produced[name]
        return publish_producer(self.config(store), store, self.data.log, produced, name, return_to=return_to)

    def with_producer(self, name: str, produced: Produced) -> Release:
        return self.with_data(knowledge=Knowledge({**self.data.knowledge.produced, name: produced}))

    def with_users(self, name: str, **changes: Any) -> Release:
        """The same with other ``UserVectors`` of one producer."""
        produced = self.data.knowledge.produced[name]
        assert produced.users is not None
        return self.with_producer(name, replace(produced, users=replace(produced.users, **changes)))

    def with_items(self, name: str, **changes: Any) -> Release:
        produced = self.data.knowledge.produced[name]
        assert produced.items is not None
        return self.with_producer(name, replace(produced, items=replace(produced.items, **changes)))

    def shifted(self, name: str, by: float = 1.0) -> Release:
        """The same, but every vector of one producer says something else."""
        produced, changed = self.data.knowledge.produced[name], self
        if produced.users is not None:
            changed = changed.with_users(name, vectors=produced.users.vectors + np.float32(by))
        if produced.items is not None:
            known = produced.items.known[:, None]
            changed = changed.with_items(name, vectors=produced.items.vectors + np.float32(by) * known)
        return changed

    def with_data(self, **changes: Any) -> Release:
        return replace(self, data=replace(self.data, **changes))

    def with_gate(self, **changes: Any) -> Release:
        data = self.data.config.model_dump()["publish"] | changes
        config = self.data.config.model_copy(update={"publish": PublishConfig.model_validate(data)})
        return self.with_data(config=config)

    def next(self, name: str) -> Release:
        """A release of another model file: the same graph and manifest under another description."""
        return self.scoring(name, lambda graph: None)

    def scoring(self, name: str, change: Callable[[onnx.GraphProto], None]) -> Release:
        """A release whose model scores otherwise, as ``change`` has it; see ``graphs``."""
        proto = self._proto()
        proto.doc_string = name
        change(proto.graph)
        return self._of(proto, name)

    def reading(self, *producers: str) -> Release:
        """A release whose model says that it reads the knowledge of these producers only, and goes by popularity."""
        knowledge = Knowledge({name: self.data.knowledge.produced[name] for name in producers})
        proto = self._proto()
        popular(proto.graph)
        for entry in proto.metadata_props:
            manifest = ArtifactManifest.from_metadata({entry.key: entry.value})
            schema = manifest.feature_schema.with_knowledge(producers)
            changed = {"feature_schema": schema, "spaces": knowledge.spaces}
            entry.value = manifest.model_copy(update=changed).model_dump_json()
        return self.with_data(knowledge=knowledge)._of(proto, "-".join(producers), runs=False)

    def respaced(self, name: str) -> Release:
        """A release whose model says that it reads other spaces of one producer, and knowledge in them."""
        produced = self.data.knowledge.produced[name]
        assert produced.users is not None
        assert produced.items is not None
        users = replace(produced.users, space=of_other_components(produced.users.space))
        items = replace(produced.items, space=of_other_components(produced.items.space))
        changed = self.with_producer(name, replace(produced, users=users, items=items))
        return changed.reading(*changed.data.knowledge.produced)

    def _proto(self) -> Any:
        return onnx.load_model(self.models / self.report.artifact)

    def _of(self, proto: Any, name: str, *, runs: bool = True) -> Release:
        content = bytes(proto.SerializeToString())
        digest = hashlib.sha256(content).hexdigest()
        artifact = f"{name}.onnx"
        (self.models / artifact).write_bytes(content)
        parts = write_parts(content, parts_folder(self.models / artifact)) if runs else {}
        report = replace(self.report, artifact=artifact, sha256=digest, parts=parts)
        return replace(self, report=report)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Trained by the real training run, for one epoch."""
    folder = tmp_path_factory.mktemp("release")
    data = synthetic(folder)
    report = train(data.config, data.catalogue, data.log, data.knowledge, folder)
    return Release(data, report, folder)
