"""Loads one release: its model, and its item table, which is mapped from files and brought up to date from Redis.

Knows Redis' keys of a release and the artifact folder. Does not know which release is served.

A thread that loads a release has the same interpreter as the requests, and perhaps the same core. Niced, it gets the
part of the core that the event loop leaves. That helps for work that lets go of the interpreter's lock, in numpy or in
ONNX Runtime; a thread that is put off with the lock in its hand holds up the requests for as long as others keep the
core, so nothing that runs in the background should stay in Python for long.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from pydantic import ValidationError

from models.contract.artifact import ArtifactError, ReleaseManifest
from models.contract.bulk import ItemDecoder
from models.contract.encoding import UserBatch
from models.contract.events import EVENT_DTYPE
from models.contract.items import ItemTable
from models.contract.keys import Keys
from models.contract.snapshot import Entry, TableUpdate, changed_items, model_columns, read_columns
from models.onnx_runtime import makes_threads
from service.ranking.deadline import Deadline
from service.ranking.ports import Release
from service.ranking.types import Sample
from service.redis import RedisPort, replies_to
from service.redis_connection import Command
from service.releases.unmapping import unmap_gently
from service.retrieval.retriever import ItemRetriever
from service.scoring import INLINE_SECONDS, INLINE_SECONDS_ALONE, CtrModel, OnnxScorer, load_model
from service.settings import Settings
from service.telemetry import Telemetry

MANIFEST_SECONDS = 2.0

CHUNK = 2000
CHUNK_SECONDS = 10.0
"""Items per read, and how long one read may take before the load is given up and tried again."""

ENTRIES = 200
"""Stream entries per read; each names a thousand items at most."""

WARM_COUNTS = (1, 50, 200, 500)
"""Slate lengths of the warm-up: first runs allocate, and the first caller should not pay for it."""

P = ParamSpec("P")
T = TypeVar("T")


async def run_in_background(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """``work(...)``, as asyncio.to_thread does it, in a thread of the lowest priority."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), partial(work, *arguments, **options))


def _run_in(before: Loaded | None) -> Callable[..., Awaitable[Any]]:
    """Where to load a release: in the background, unless nothing is served yet that could be held up. Beside busy
    neighbours the lowest priority makes minutes of seconds."""
    return asyncio.to_thread if before is None else run_in_background


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(4, thread_name_prefix="background", initializer=_give_way)


def _give_way() -> None:
    with suppress(OSError):  # a system without priorities of threads
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A release with what is needed to load its next revision."""

    release: Release
    model: CtrModel
    update: TableUpdate


@dataclass(frozen=True, slots=True, eq=False)
class Loader:
    """Loads releases from one Redis and one artifact folder. ``inline_seconds`` is the longest model run that the event
    loop may do itself; longer ones go to a thread."""

    link: RedisPort
    keys: Keys
    telemetry: Telemetry
    artifacts: Path
    threads: int
    inline_seconds: float = INLINE_SECONDS

    @classmethod
    def of(cls, settings: Settings, link: RedisPort, keys: Keys, telemetry: Telemetry) -> Loader:
        """A loader with the folder and threads of the settings."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        inline_seconds = INLINE_SECONDS_ALONE if cores <= settings.workers else INLINE_SECONDS
        return cls(link, keys, telemetry, settings.artifact_folder, settings.onnx_threads, inline_seconds)

    async def load(self, release_id: str, revision: str, before: Loaded | None) -> Loaded:
        """The release at ``revision``, ready to score.

        ``before`` is the loaded release that this one is to replace, if any: what the two share is taken from it.
        ArtifactError or ScoringError if the release cannot be served, RedisUnavailable if Redis does not answer.
        """
        start = time.perf_counter()
        run = _run_in(before)
        manifest = await self._manifest(release_id)
        model = await self._model(manifest, before)
        update = await self._items(manifest, model, before)
        table = update.table()
        scorer = model.on(table, model_columns(update.columns))
        await run(_warm, scorer, model, table, self.inline_seconds)
        schema, spaces = model.artifact.feature_schema, model.artifact.spaces
        retriever = await run(ItemRetriever.open, self.artifacts, manifest, schema, spaces, table)
        release = Release(manifest, schema, spaces, table, scorer, retriever, revision, 0.0, 0.0)
        milliseconds = round((time.perf_counter() - start) * 1000.0, 3)
        return Loaded(replace(release, loaded_at=time.time(), swap_ms=milliseconds), model, update)

    async def _model(self, manifest: ReleaseManifest, before: Loaded | None) -> CtrModel:
        """The model of a release, or that of ``before`` if it is the same: a refresh changes records in place."""
        same = before is not None and _model_of(before.release.manifest) == _model_of(manifest)
        if before is not None and same and before.model.problem is None:
            manifest.check(before.model.artifact)
            return before.model
        # Threads that sessions make for themselves would inherit the low priority of the background, and reading a
        # graph that is whole holds the interpreter's lock.
        run = _run_in(before) if manifest.parts and not makes_threads(self.threads) else asyncio.to_thread
        return await run(load_model, self.artifacts, manifest, self.threads)

    async def _items(self, manifest: ReleaseManifest, model: CtrModel, before: Loaded | None) -> TableUpdate:
        """The item table of a release: its snapshot, with the items that have changed since written into it."""
        snapshot = manifest.snapshot
        if snapshot is None:
            raise ArtifactError(
                f"release {manifest.id} was published by an earlier version, without files of its items: run "
                "`python -m offline refresh`, or `publish`"
            )
        trusted: Collection[str] = ()
        if before is not None and before.release.manifest.snapshot is not None:
            trusted = frozenset(before.release.manifest.snapshot.columns.values())
        run = _run_in(before)
        columns = await run(read_columns, self.artifacts, snapshot.columns, trusted)
        unmap_gently(columns)
        update, since = TableUpdate(columns, snapshot.items), snapshot.changes
        # Another model's columns of the items that have changed would be others, or none.
        same = before is not None and model is before.model and before.release.manifest.snapshot == snapshot
        if before is not None and same and before.release.id == manifest.id:
            await run(update.take_over, before.update)
            if re.fullmatch(r"\d+-\d+", before.release.revision):
                since = before.release.revision
        changed = await self._changed(manifest, since)
        if changed is None:
            changed = await self._directory(manifest)
        decoder = ItemDecoder(model.artifact)
        read = await self._records(manifest, decoder, changed[:CHUNK])
        for start in range(0, len(changed), CHUNK):
            part, ahead = changed[start : start + CHUNK], changed[start + CHUNK : start + 2 * CHUNK]
            writing = run(_write, update, decoder, part, read, model)
            # Redis reads the next items while these are decoded.
            _, read = await asyncio.gather(writing, self._records(manifest, decoder, ahead))
        for kind, count in decoder.refused.items():
            self.telemetry.refused_records.labels(kind).inc(count)
        return update

    async def _changed(self, manifest: ReleaseManifest, since: str) -> list[str] | None:
        """Ids of a release's items whose records were written after a mark; None if that is not known any more."""
        entries: list[Entry] = []
        first = since
        while True:
            command: Command = ("XRANGE", self.keys.changes, first, "+", "COUNT", ENTRIES)
            (page,) = await replies_to(self.link, [command], Deadline(CHUNK_SECONDS))
            entries += [(entry, dict(zip(fields[::2], fields[1::2], strict=True))) for entry, fields in page]
            if len(page) < ENTRIES:
                return changed_items(entries, since, {manifest.id, *manifest.spaces.values()})
            first = f"({page[-1][0].decode()}"

    async def _directory(self, manifest: ReleaseManifest) -> list[str]:
        """Item ids of a release, each once. ArtifactError if a block of its directory is missing or damaged."""
        keys = [self.keys.item_directory(manifest.id, block) for block in range(manifest.directory_blocks)]
        blocks = await replies_to(self.link, [("GET", key) for key in keys], Deadline(CHUNK_SECONDS))
        try:
            return list(dict.fromkeys(item for block in blocks for item in json.loads(block)))
        except (TypeError, ValueError) as error:
            raise ArtifactError(f"release {manifest.id}: its item directory is missing or damaged") from error

    async def _records(self, manifest: ReleaseManifest, decoder: ItemDecoder, ids: Sequence[str]) -> list[Any]:
        """Packed records of items, as ``ItemDecoder.decode`` takes them. Nothing of no items."""
        commands: list[Command] = [("MGET", *keys) for keys in decoder.keys(self.keys, manifest.id, ids)] if ids else []
        return await replies_to(self.link, commands, Deadline(CHUNK_SECONDS))

    async def _manifest(self, release_id: str) -> ReleaseManifest:
        key = self.keys.release_manifest(release_id)
        (blob,) = await replies_to(self.link, [("GET", key)], Deadline(MANIFEST_SECONDS))
        if blob is None:
            raise ArtifactError(f"release {release_id}: there is no manifest")
        try:
            manifest = ReleaseManifest.model_validate_json(blob)
        except ValidationError as error:
            raise ArtifactError(f"release {release_id}: manifest is not understood: {error}") from error
        if manifest.id != release_id:
            raise ArtifactError(f"release {release_id}: manifest is of release {manifest.id}")
        return manifest


def _model_of(manifest: ReleaseManifest) -> tuple[object, ...]:
    return manifest.artifact, manifest.artifact_sha256, manifest.parts


def _write(update: TableUpdate, decoder: ItemDecoder, ids: Sequence[str], read: Sequence[Any], model: CtrModel) -> None:
    """Write items into a table, with the columns that a split model gives for them."""
    rows = update.write(decoder.decode(ids, read))
    if model.split is not None and len(rows):
        for name, cells in model.split.columns(update.table(), rows).items():
            update.columns[name][rows] = cells


def _warm(scorer: OnnxScorer, model: CtrModel, table: ItemTable, inline_seconds: float) -> None:
    """Score slates of several lengths for a user without history, and set ``scorer.inline``: the number of candidates
    that take ``inline_seconds`` at most. ScoringError if the model fails."""
    user = UserBatch.single(model.artifact.feature_schema, table, {}, np.zeros(0, EVENT_DTYPE), {}, 0)
    scorer.inline = 0
    for count in WARM_COUNTS:
        sample = Sample(user, np.arange(count, dtype=np.int64) % len(table))
        seconds = min(_seconds(scorer, sample) for _ in range(3))
        if seconds < inline_seconds:
            scorer.inline = int(count * inline_seconds / seconds)


def _seconds(scorer: OnnxScorer, sample: Sample) -> float:
    """Seconds of this thread's processor time for one run. Not wall time: other load on the machine must not decide."""
    start = time.thread_time()
    scorer.run(sample)
    return time.thread_time() - start
