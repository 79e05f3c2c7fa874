"""What is live, what is published, how fresh it is, and what the last language-model run cost."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from models.contract.artifact import ArtifactError
from offline.publish.connection import Store
from offline.publish.release import live_release, read_manifest, releases
from offline.stages import Job


def status_lines(job: Job, store: Store, stages: dict[str, Any]) -> Iterator[str]:
    """Lines for the terminal."""
    live = live_release(store)
    yield f"redis      {store.url} (keys {store.keys.prefix}:*)"
    yield f"live       {live or 'nothing'}"
    for release in reversed(releases(store)):
        try:
            manifest = read_manifest(store, release)
        except ArtifactError as error:
            yield f"release    {release}: {error}"
            continue
        marker = "*" if release == live else " "
        auc = manifest.metrics.get("validation_auc", float("nan"))
        yield (
            f"release  {marker} {release}  {_when(manifest.created_at)}  {manifest.items} items  "
            f"model {manifest.model.name} {manifest.model.version}  validation AUC {auc:.4f}"
        )
    for name, entry in stages.items():
        yield f"stage      {name}: finished {_when(entry['finished_at'])}, took {entry['seconds']} s"
    waiting: Any = store.redis.xlen(store.keys.interactions)
    yield f"streams    {waiting} interactions, {store.redis.xlen(store.keys.exposures)} exposures held"
    ledger = job.llm / "ledger.jsonl"
    if ledger.is_file():
        last = json.loads(ledger.read_text(encoding="utf-8").splitlines()[-1])
        yield "llm        last run: " + ", ".join(f"{key} {value}" for key, value in last.items())


def _when(seconds: int) -> str:
    age = (time.time() - seconds) / 3600
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC ({age:.1f} h ago)"
