"""A real Valkey, a store with a prefix of its own per test, and a trained synthetic release."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import redis

from models.embedded import embedded_redis
from offline.config import PublishConfig
from offline.publish.connection import Store, open_store
from offline.publish.stage import Published, publish
from offline.training.report import TrainingReport
from offline.training.run import train
from tests.synthetic import Synthetic, synthetic

_numbers = itertools.count()


@pytest.fixture(scope="session")
def publish_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with embedded_redis(tmp_path_factory.mktemp("publish") / "valkey") as url:
        yield url


@pytest.fixture
def store(publish_valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """As the jobs open it, under a prefix that no other test has; what lies outside of it must not change."""
    prefix = f"publish-{next(_numbers)}"
    monkeypatch.setenv("LORANK_REDIS_URL", publish_valkey)
    monkeypatch.setenv("LORANK_KEY_PREFIX", prefix)
    monkeypatch.delenv("LORANK_ARTIFACTS", raising=False)
    with open_store(tmp_path) as opened:
        before = keys_of(opened.redis)
        yield opened
        after = keys_of(opened.redis)
        assert {key for key in before ^ after if not key.startswith(f"{prefix}:")} == set()


def keys_of(client: redis.Redis, pattern: str = "*") -> set[str]:
    found: Any = client.keys(pattern)
    return {key.decode() for key in found}


def content_of(store: Store) -> dict[str, bytes]:
    """Every string key of the installation, with its value."""
    held: dict[str, bytes] = {}
    for key in keys_of(store.redis, f"{store.keys.prefix}:*"):
        value: Any = store.redis.get(key)
        held[key] = value
    return held


@dataclass(frozen=True)
class Release:
    """A data set, and a model trained on it, ready to be published."""

    data: Synthetic
    report: TrainingReport
    models: Path

    @property
    def id(self) -> str:
        return f"synthetic-{self.report.sha256[:12]}"

    def publish(self, store: Store, *, return_to: bool = False) -> Published:
        data = self.data
        return publish(
            data.config, store, data.catalogue, data.log, data.knowledge, self.report, self.models, return_to=return_to
        )

    def with_data(self, **changes: Any) -> Release:
        return replace(self, data=replace(self.data, **changes))

    def with_gate(self, **changes: Any) -> Release:
        data = self.data.config.model_dump()["publish"] | changes
        config = self.data.config.model_copy(update={"publish": PublishConfig.model_validate(data)})
        return self.with_data(config=config)

    def next(self, name: str, auc: float | None = None) -> Release:
        """A release of another model file: the same graph and manifest under another description."""
        proto = onnx.load_model(self.models / self.report.artifact)
        proto.doc_string = name
        content = bytes(proto.SerializeToString())
        digest = hashlib.sha256(content).hexdigest()
        artifact = f"{name}.onnx"
        (self.models / artifact).write_bytes(content)
        metrics = {**self.report.metrics} if auc is None else {"validation_auc": auc}
        return replace(self, report=replace(self.report, artifact=artifact, sha256=digest, metrics=metrics))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Trained by the real training run, for one epoch."""
    folder = tmp_path_factory.mktemp("release")
    data = synthetic(folder)
    report = train(data.config, data.catalogue, data.log, data.knowledge, folder)
    return Release(data, report, folder)
