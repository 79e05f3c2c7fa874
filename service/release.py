"""Loads releases beside the live one, warms them, and swaps one reference. Old and new never mix in a request.

Knows the release pointer in Redis, the artifact folder, and when to refuse. A refused release leaves the live one
in place; the reason is in the status until a release loads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from models.contract.artifact import ArtifactError, ReleaseManifest
from models.contract.encoding import UserBatch
from models.contract.events import EVENT_DTYPE
from models.contract.items import ItemTable
from models.contract.keys import Keys
from models.contract.schema import fingerprint
from service.arrays import NewArrays, SharedArrays
from service.errors import RedisUnavailable, ScoringError
from service.features.catalogue import read_items
from service.features.connection import RedisLink, replies_to
from service.ranking.deadline import Deadline
from service.ranking.types import Release, Sample
from service.scoring.onnx import OnnxModel, load_model
from service.scoring.scorers import INLINE_SECONDS, OnnxScorer, PartSessions
from service.telemetry import Telemetry

POLL_TIMEOUT_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 60.0
TELL_PINS_SECONDS = 60.0
"""How long one look at the pointer may take, and the longest pause before a refused release is tried again."""

WARM_COUNTS = (1, 50, 200, 500)
"""Slate lengths of the warm-up: first runs allocate, and the first caller should not pay for it."""

_FORMAT = 1
"""Counts changes of what the arrays of an item table mean."""

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
    """A release with what is needed to load its next revision, and the names of the arrays that it is made of."""

    release: Release
    model: OnnxModel
    sets: frozenset[str]


class Releases:
    """The port ``LiveRelease``, kept current by ``watch``. ``pins`` names the releases that are held beside the live
    one, because an arm wants them."""

    def __init__(
        self,
        link: RedisLink,
        keys: Keys,
        telemetry: Telemetry,
        *,
        artifacts: Path,
        arrays: SharedArrays,
        threads: int,
        poll_seconds: float,
        pins: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._link = link
        self._keys = keys
        self._telemetry = telemetry
        self._artifacts = artifacts
        self._arrays = arrays
        self._threads = threads
        self._poll_seconds = poll_seconds
        self._pins = pins
        self._live: _Loaded | None = None
        self._pinned: dict[str, _Loaded] = {}
        self._retry_at: dict[str, float] = {}
        self._wanted: str | None = None
        self._told_pins: tuple[str, ...] = ()
        self._tell_pins_at = 0.0
        self.refusals: dict[str, Refusal] = {}
        self.redis_error: str | None = "not asked yet"

    def current(self) -> Release | None:
        return None if self._live is None else self._live.release

    def pinned(self, release: str) -> Release | None:
        live = self.current()
        if live is not None and live.id == release:
            return live
        loaded = self._pinned.get(release)
        return None if loaded is None else loaded.release

    @property
    def refusal(self) -> Refusal | None:
        """Why the release that is wanted is not served."""
        return None if self._wanted is None else self.refusals.get(self._wanted)

    async def watch(self) -> None:
        """Follow the release pointer until cancelled. An outage of Redis ends nothing: the next look may succeed."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._poll_seconds)

    async def refresh(self) -> None:
        """Look at pointer and pins once, and load what they name if it is not there. Never raises on bad data."""
        try:
            wanted = await self._pointer()
            self._wanted = wanted
            if wanted is not None:
                await self._follow(wanted, self._live, self._serve)
            pins = [one for one in self._pins() if one != wanted]
            for pin in pins:
                await self._follow(pin, self._pinned.get(pin), self._pin)
        except RedisUnavailable as error:
            if self.redis_error is None:
                log.warning("releases cannot be read: %s", error)
            self.redis_error = str(error)
            return
        self.redis_error = None
        self._pinned = {one: loaded for one, loaded in self._pinned.items() if one in pins}
        self.refusals = {one: refusal for one, refusal in self.refusals.items() if one in {wanted, *pins}}
        await self._tell_pins()

    async def _pointer(self) -> str | None:
        """Id of the release to serve."""
        (live,) = await self._get(self._keys.live)
        return None if live is None else live.decode(errors="replace")

    async def _follow(self, wanted: str, loaded: _Loaded | None, take: Callable[[_Loaded], None]) -> None:
        """Load ``wanted`` unless it is ``loaded`` in its latest revision, or was refused a moment ago."""
        (blob,) = await self._get(self._keys.release_revision(wanted))
        revision = "" if blob is None else blob.decode(errors="replace")
        if loaded is not None and (loaded.release.id, loaded.release.revision) == (wanted, revision):
            return
        if time.monotonic() < self._retry_at.get(wanted, 0.0):
            return
        try:
            take(await self._load(wanted, revision, loaded))
        except RedisUnavailable:
            raise
        except (ArtifactError, ScoringError) as error:
            self._refuse(wanted, str(error))
        except Exception as error:  # whatever a publisher wrote, the watcher must go on watching
            log.exception("release %s could not be loaded", wanted)
            self._refuse(wanted, f"{type(error).__name__}: {error}")
        else:
            self.refusals.pop(wanted, None)
            self._retry_at.pop(wanted, None)

    def _serve(self, loaded: _Loaded) -> None:
        """Make it live, by one assignment. What was live stays if an arm pins it."""
        if self._live is not None and self._live.release.id in self._pins():
            self._pin(self._live)
        self._live = loaded
        release = loaded.release
        self._telemetry.release_swap_seconds.set(release.swap_ms / 1000.0)
        model = release.manifest.model
        self._telemetry.served(release.id, model.name, model.version)
        log.info(
            "release %s revision %r is live, %d items, %.0f ms",
            release.id, release.revision, len(release.table) - 1, release.swap_ms,
        )  # fmt: skip

    def _pin(self, loaded: _Loaded) -> None:
        self._pinned = {**self._pinned, loaded.release.id: loaded}
        log.info("release %s is pinned", loaded.release.id)

    async def _tell_pins(self) -> None:
        """Note in Redis, once a minute and when they change, that the pinned releases are in use: the jobs then do not
        prune them. That it is refused harms nothing else."""
        pins = tuple(self._pins())
        if not pins or (pins == self._told_pins and time.monotonic() < self._tell_pins_at):
            return
        now = round(time.time())
        noted = [cell for pin in pins for cell in (now, pin)]
        try:
            await replies_to(self._link, [("ZADD", self._keys.pins, *noted)], Deadline(POLL_TIMEOUT_SECONDS))
        except RedisUnavailable as error:
            log.warning("Redis does not note that %s are pinned; the jobs may prune them: %s", ", ".join(pins), error)
        self._told_pins, self._tell_pins_at = pins, time.monotonic() + TELL_PINS_SECONDS

    async def _get(self, *keys: str) -> list[bytes | None]:
        return await replies_to(self._link, [("GET", key) for key in keys], Deadline(POLL_TIMEOUT_SECONDS))

    async def _load(self, wanted: str, revision: str, before: _Loaded | None) -> _Loaded:
        """Build the wanted release completely, from what of it is there."""
        start = time.perf_counter()
        manifest = await self._manifest(wanted)
        if before is not None and before.release.manifest == manifest:
            # A refresh changed records in place: same model, new table.
            model = before.model
        else:
            model = await asyncio.to_thread(load_model, self._artifacts, manifest, self._threads)
        async with self._arrays.turn():
            table, scorer, sets = await self._on_items(manifest, revision, model)
            kept = [one for one in (self._live, *self._pinned.values()) if one is not None]
            self._arrays.keep(sets.union(*(one.sets for one in kept)))
        await asyncio.to_thread(_warm, scorer, model, table)
        artifact = model.artifact
        release = Release(manifest, artifact.feature_schema, artifact.spaces, table, scorer, revision, 0.0, 0.0)
        milliseconds = round((time.perf_counter() - start) * 1000.0, 3)
        return _Loaded(replace(release, loaded_at=time.time(), swap_ms=milliseconds), model, sets)

    async def _on_items(
        self, manifest: ReleaseManifest, revision: str, model: OnnxModel
    ) -> tuple[ItemTable, OnnxScorer, frozenset[str]]:
        """The item table, a scorer of it, and the names of the sets of arrays that they are made of."""
        artifact, parts = model.artifact, model.sessions

        async def read(new: NewArrays) -> None:
            await read_items(self._link, self._keys, manifest, artifact, self._telemetry, new)

        # A release's items change with its revision. Its manifest tells it from one that was published anew.
        whose = {"prefix": self._keys.prefix, "manifest": manifest.model_dump(mode="json"), "revision": revision}
        items_name = f"items-{fingerprint({**whose, 'format': _FORMAT})}"
        table = await asyncio.to_thread(ItemTable.of, await self._arrays.made(items_name, read))
        if not isinstance(parts, PartSessions):
            return table, model.on(table, {}), frozenset({items_name})

        async def compute(new: NewArrays) -> None:
            await asyncio.to_thread(parts.columns, table, new.allocate)

        columns_name = f"columns-{fingerprint({'items': items_name, 'graphs': parts.digest})}"
        columns = await self._arrays.made(columns_name, compute)
        return table, model.on(table, columns), frozenset({items_name, columns_name})

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

    def _refuse(self, release: str, reason: str) -> None:
        """Each refusal doubles the pause before the next attempt."""
        before = self.refusals.get(release)
        attempts = 1 if before is None else before.attempts + 1
        if before is None or before.reason != reason:
            log.error("release refused: %s", reason)
        self.refusals[release] = Refusal(release, reason, time.time(), attempts)
        pause = min(LONGEST_PAUSE_SECONDS, self._poll_seconds * 2.0 ** min(attempts, 16))
        self._retry_at[release] = time.monotonic() + pause
        self._telemetry.releases_refused.inc()


def _warm(scorer: OnnxScorer, model: OnnxModel, table: ItemTable) -> None:
    """Score slates of several lengths for a user without history, which also tells how many candidates take a moment.
    ScoringError if it cannot."""
    user = UserBatch.single(model.artifact.feature_schema, table, {}, np.zeros(0, EVENT_DTYPE), {})
    scorer.inline = 0
    for count in WARM_COUNTS:
        sample = Sample(user, np.arange(count, dtype=np.int64) % len(table))
        seconds = min(_seconds(scorer, sample) for _ in range(3))
        if seconds < INLINE_SECONDS:
            scorer.inline = int(count * INLINE_SECONDS / seconds)


def _seconds(scorer: OnnxScorer, sample: Sample) -> float:
    start = time.perf_counter()
    scorer.run(sample)
    return time.perf_counter() - start
