"""Loads releases beside the live one, warms them, and swaps one reference. Old and new never mix in a request.

Knows the release pointer in Redis, the artifact folder, and when to refuse. A refused release leaves the live one
in place; the reason is in the status until a release loads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from models.contract.artifact import ArtifactError, ArtifactManifest, ReleaseManifest
from models.contract.encoding import ItemBatch, UserBatch, encode
from models.contract.events import EVENT_DTYPE
from models.contract.items import ItemTable
from models.contract.keys import Keys
from models.contract.schema import FeatureSchema
from service.errors import RedisUnavailable, ScoringError
from service.features.catalogue import load_items
from service.features.connection import RedisLink, replies_to
from service.ranking.deadline import Deadline
from service.ranking.types import Release
from service.scoring.onnx import OnnxScorer, load_scorer
from service.telemetry import Telemetry

POLL_TIMEOUT_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 60.0
"""How long one look at the pointer may take, and the longest pause before a refused release is tried again."""

WARM_COUNTS = (1, 50, 200, 500)
"""Slate lengths of the warm-up: first runs allocate, and the first caller should not pay for it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A release that was not loaded, and why."""

    release: str
    reason: str
    at: float
    attempts: int


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The live release with what is needed to rebuild its item table."""

    release: Release
    artifact: ArtifactManifest


class Releases:
    """The port ``LiveRelease``, kept current by ``watch``."""

    def __init__(
        self, link: RedisLink, keys: Keys, telemetry: Telemetry, *, artifacts: Path, threads: int, poll_seconds: float
    ) -> None:
        self._link = link
        self._keys = keys
        self._telemetry = telemetry
        self._artifacts = artifacts
        self._threads = threads
        self._poll_seconds = poll_seconds
        self._live: _Loaded | None = None
        self._retry_at = 0.0
        self.refusal: Refusal | None = None
        self.redis_error: str | None = "not asked yet"

    def current(self) -> Release | None:
        return None if self._live is None else self._live.release

    async def watch(self) -> None:
        """Follow the release pointer until cancelled. An outage of Redis ends nothing: the next look may succeed."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._poll_seconds)

    async def refresh(self) -> None:
        """Look at the pointer once and load what it names if that is not what is served. Never raises on bad data."""
        try:
            wanted, revision = await self._pointer()
            self.redis_error = None
        except RedisUnavailable as error:
            if self.redis_error is None:
                log.warning("the release pointer cannot be read: %s", error)
            self.redis_error = str(error)
            return
        if wanted is None or self._is_live(wanted, revision) or self._is_waiting(wanted):
            return
        try:
            await self._load(wanted, revision)
        except RedisUnavailable as error:
            self.redis_error = str(error)
        except (ArtifactError, ScoringError) as error:
            self._refuse(wanted, str(error))
        except Exception as error:  # whatever a publisher wrote, the watcher must go on watching
            log.exception("release %s could not be loaded", wanted)
            self._refuse(wanted, f"{type(error).__name__}: {error}")

    async def _pointer(self) -> tuple[str | None, str]:
        """Id of the release to serve, and its revision."""
        (live,) = await self._get(self._keys.live)
        if live is None:
            return None, ""
        release = live.decode(errors="replace")
        (revision,) = await self._get(self._keys.release_revision(release))
        return release, "" if revision is None else revision.decode(errors="replace")

    async def _get(self, *keys: str) -> list[bytes | None]:
        return await replies_to(self._link, [("GET", key) for key in keys], Deadline(POLL_TIMEOUT_SECONDS))

    def _is_live(self, wanted: str, revision: str) -> bool:
        release = self.current()
        return release is not None and release.id == wanted and release.revision == revision

    def _is_waiting(self, wanted: str) -> bool:
        """Whether ``wanted`` was refused a moment ago; each refusal doubles the pause before the next attempt."""
        return self.refusal is not None and self.refusal.release == wanted and time.monotonic() < self._retry_at

    async def _load(self, wanted: str, revision: str) -> None:
        """Build the wanted release completely, then make it live by one assignment."""
        start = time.perf_counter()
        manifest = await self._manifest(wanted)
        live = self._live
        if live is not None and live.release.manifest == manifest:
            # A refresh changed records in place: same model, new table.
            table = await self._table(manifest, live.artifact)
            loaded = replace(live, release=replace(live.release, table=table, revision=revision))
        else:
            scorer, artifact = await asyncio.to_thread(load_scorer, self._artifacts, manifest, self._threads)
            table = await self._table(manifest, artifact)
            await asyncio.to_thread(_warm, scorer, artifact.feature_schema, table)
            loaded = _Loaded(
                Release(manifest, artifact.feature_schema, artifact.spaces, table, scorer, revision, 0.0, 0.0), artifact
            )
        seconds = time.perf_counter() - start
        release = replace(loaded.release, loaded_at=time.time(), swap_ms=round(seconds * 1000.0, 3))
        self._live = replace(loaded, release=release)
        self.refusal = None
        self._telemetry.release_swap_seconds.set(seconds)
        self._telemetry.served(manifest.id, manifest.model.name, manifest.model.version)
        log.info("release %s revision %r is live, %d items, %.0f ms", wanted, revision, len(table) - 1, seconds * 1e3)

    async def _manifest(self, wanted: str) -> ReleaseManifest:
        (blob,) = await self._get(self._keys.release_manifest(wanted))
        if blob is None:
            raise ArtifactError(f"release {wanted}: there is no manifest")
        try:
            manifest = ReleaseManifest.model_validate_json(blob)
        except ValidationError as error:
            raise ArtifactError(f"release {wanted}: manifest is not understood: {error}") from error
        if manifest.id != wanted:
            raise ArtifactError(f"release {wanted}: manifest is of release {manifest.id}")
        return manifest

    async def _table(self, manifest: ReleaseManifest, artifact: ArtifactManifest) -> ItemTable:
        table = await load_items(self._link, self._keys, manifest, artifact, self._telemetry)
        if len(table) == 1:
            raise ArtifactError(f"release {manifest.id}: no item has a valid record")
        return table

    def _refuse(self, release: str, reason: str) -> None:
        before = self.refusal
        attempts = before.attempts + 1 if before is not None and before.release == release else 1
        if before is None or (before.release, before.reason) != (release, reason):
            log.error("release refused: %s", reason)
        self.refusal = Refusal(release, reason, time.time(), attempts)
        self._retry_at = time.monotonic() + min(LONGEST_PAUSE_SECONDS, self._poll_seconds * 2.0 ** min(attempts, 16))
        self._telemetry.releases_refused.inc()


def _warm(scorer: OnnxScorer, schema: FeatureSchema, table: ItemTable) -> None:
    """Score slates of several lengths for a user without history. ScoringError if the model cannot."""
    user = UserBatch.single(schema, table, {}, np.zeros(0, EVENT_DTYPE), {})
    for count in WARM_COUNTS:
        rows = np.arange(count, dtype=np.int64) % len(table)
        scorer.run(encode(schema, table, user, ItemBatch.gather(table, rows)))
