"""Has releases loaded beside the live one and swaps one reference. Old and new never mix in a request.

Knows the release pointer in Redis, and when to refuse. A refused release leaves the live one in place; the reason is in
the status until a release loads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.contract.artifact import ArtifactError, RefusedModel, ShortageError
from service.errors import RedisUnavailable
from service.ranking.deadline import Deadline
from service.ranking.degraded import ScoringError
from service.ranking.ports import Release
from service.redis import replies_to
from service.releases.background import run_in_background
from service.releases.loaded import Loaded
from service.releases.loader import Loader

POLL_TIMEOUT_SECONDS = 2.0
"""Longest duration of one read of the release pointer."""

LONGEST_PAUSE_SECONDS = 60.0
"""Longest pause before a refused release is tried again."""

NOTE_PINS_SECONDS = 60.0
"""Longest time between two notes in Redis that the pinned releases are in use."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A release that was not loaded, and why."""

    release: str
    reason: str
    at: float
    attempts: int


class Releases:
    """The port ``LiveRelease``, kept current by ``watch``. ``pins`` names the releases that are loaded beside the live
    one, because an arm wants them; ``refused_model`` is the one that the jobs keep off, as of the last look."""

    def __init__(self, loader: Loader, poll_seconds: float, pins: Callable[[], Sequence[str]] = tuple) -> None:
        self._loader = loader
        self._link, self._keys, self._telemetry = loader.link, loader.keys, loader.telemetry
        self._poll_seconds = poll_seconds
        self._pins = pins
        self._retired: list[Loaded] = []
        self._live: Loaded | None = None
        self._pinned: dict[str, Loaded] = {}
        self._retry_at: dict[str, float] = {}
        self._pointed: str | None = None
        self._noted_pins: tuple[str, ...] = ()
        self._note_pins_at = 0.0
        self.refusals: dict[str, Refusal] = {}
        self.refused_model: RefusedModel | None = None
        self.redis_error: str | None = "not asked yet"

    def current(self) -> Release | None:
        return None if self._live is None else self._live.release

    @property
    def pointer_gone(self) -> bool:
        return self._pointed is None and self._live is not None

    @property
    def pointer(self) -> str:
        """Whether Redis names a release: ok, not any more (vanished), not yet (absent), not known (unknown)."""
        if self.redis_error is not None:
            return "vanished" if self.pointer_gone else "unknown"
        return "ok" if self._pointed is not None else "vanished" if self._live is not None else "absent"

    def pinned(self, release: str) -> Release | None:
        live = self.current()
        if live is not None and live.id == release:
            return live
        loaded = self._pinned.get(release)
        return None if loaded is None else loaded.release

    @property
    def refusal(self) -> Refusal | None:
        """Why the release that the pointer names is not served."""
        return None if self._pointed is None else self.refusals.get(self._pointed)

    async def watch(self) -> None:
        """Follow the release pointer until cancelled. An outage of Redis ends nothing: the next look may succeed."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._poll_seconds)

    async def refresh(self) -> None:
        """Look at pointer and pins once, and load what they name if it is not there. Never raises on bad data."""
        # What the last look has replaced is used by no request any more. Unmapping it takes a moment, too.
        if self._retired:
            await run_in_background(self._retired.clear)
        try:
            live, note = await self._texts(self._keys.live, self._keys.refused_model)
            if live is None and self._pointed is not None:
                log.error("Redis names no release any more; %s goes on being served", self._pointed)
            self._pointed, self.refused_model = live, RefusedModel.parse(note)
            if live is not None:
                await self._follow(live, self._live, self._serve)
            pins = [pin for pin in self._pins() if pin != live]
            for pin in pins:
                await self._follow(pin, self._pinned.get(pin), self._pin)
        except RedisUnavailable as error:
            if self.redis_error is None:
                log.warning("releases cannot be read: %s", error)
            self.redis_error = str(error)
            return
        self.redis_error = None
        self._retired += [loaded for pin, loaded in self._pinned.items() if pin not in pins]
        self._pinned = {pin: loaded for pin, loaded in self._pinned.items() if pin in pins}
        self.refusals = {name: refusal for name, refusal in self.refusals.items() if name in {live, *pins}}
        await self._note_pins()

    async def _follow(self, release_id: str, loaded: Loaded | None, take: Callable[[Loaded], None]) -> None:
        """Load a release unless it is ``loaded`` in its latest revision, or was refused a moment ago. One that lacks a
        file is loaded again once its files are others."""
        (text,) = await self._texts(self._keys.release_revision(release_id))
        revision = text or ""
        is_latest = loaded is not None and (loaded.release.id, loaded.release.revision) == (release_id, revision)
        if loaded is not None and is_latest and not await self._loader.is_to_be_read_again(loaded):
            return
        if time.monotonic() < self._retry_at.get(release_id, 0.0):
            return
        try:
            take(await self._loader.load(release_id, revision, loaded or self._live))
        except RedisUnavailable:
            raise
        except (ArtifactError, ScoringError, ShortageError) as error:
            self._refuse(release_id, str(error))
        except Exception as error:  # whatever a publisher wrote, the watcher must go on watching
            log.exception("release %s could not be loaded", release_id)
            self._refuse(release_id, f"{type(error).__name__}: {error}")
        else:
            self.refusals.pop(release_id, None)
            self._retry_at.pop(release_id, None)

    def _serve(self, loaded: Loaded) -> None:
        """Make it live, by one assignment. What was live stays if an arm pins it."""
        if self._live is not None and self._live.release.id in self._pins():
            self._pin(self._live)
        if self._live is not None:
            self._retired.append(self._live)
        self._live = loaded
        release = loaded.release
        self._telemetry.release_swap_seconds.set(release.swap_ms / 1000.0)
        model = release.manifest.model
        self._telemetry.served(release.id, model.name, model.version)
        log.info(
            "release %s revision %r is live, %d items, %.0f ms",
            release.id, release.revision, len(release.table) - 1, release.swap_ms,
        )  # fmt: skip

    def _pin(self, loaded: Loaded) -> None:
        if loaded.release.id in self._pinned:
            self._retired.append(self._pinned[loaded.release.id])
        self._pinned = {**self._pinned, loaded.release.id: loaded}
        log.info("release %s is pinned", loaded.release.id)

    async def _note_pins(self) -> None:
        """Note in Redis, once a minute and when they change, that the pinned releases are in use: the jobs then do not
        prune them. That it is refused harms nothing else."""
        pins = tuple(self._pins())
        if not pins or (pins == self._noted_pins and time.monotonic() < self._note_pins_at):
            return
        now = round(time.time())
        noted = [cell for pin in pins for cell in (now, pin)]
        try:
            await replies_to(self._link, [("ZADD", self._keys.pins, *noted)], Deadline(POLL_TIMEOUT_SECONDS))
        except RedisUnavailable as error:
            log.warning("Redis does not note that %s are pinned; the jobs may prune them: %s", ", ".join(pins), error)
        self._noted_pins, self._note_pins_at = pins, time.monotonic() + NOTE_PINS_SECONDS

    async def _texts(self, *keys: str) -> list[str | None]:
        blobs = await replies_to(self._link, [("GET", key) for key in keys], Deadline(POLL_TIMEOUT_SECONDS))
        return [None if blob is None else blob.decode(errors="replace") for blob in blobs]

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
