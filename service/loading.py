"""Loads one release: its model, its item table, and a scorer of both, warm. What is large is shared by all processes.

Knows Redis' keys of a release, the artifact folder and the shared folders. Does not know which release is served.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from models.contract.artifact import ArtifactError, ReleaseManifest
from models.contract.encoding import UserBatch
from models.contract.events import EVENT_DTYPE
from models.contract.items import Columns, ItemTable
from models.contract.keys import Keys
from models.contract.schema import fingerprint
from models.onnx_runtime import makes_threads, runtime
from service.arrays import NewArrays, shared_arrays
from service.background import aside
from service.features.catalogue import read_items
from service.features.redis import RedisLink, replies_to
from service.ranking.deadline import Deadline
from service.ranking.ports import Release
from service.ranking.types import Sample
from service.retrieval.retriever import ItemRetriever
from service.scoring import INLINE_SECONDS, INLINE_SECONDS_ALONE, CtrModel, OnnxScorer, load_model
from service.settings import Settings
from service.shared import SharedFolders
from service.telemetry import Telemetry

MANIFEST_SECONDS = 2.0

WARM_COUNTS = (1, 50, 200, 500)
"""Slate lengths of the warm-up: first runs allocate, and the first caller should not pay for it."""

_FORMAT = 2
"""Version of the shared folders' content; a change of it makes a new version."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A release with what is needed to load its next revision, and the names of the shared folders that it is in."""

    release: Release
    model: CtrModel
    folders: frozenset[str]


class Loader:
    """Loads releases from one Redis, one artifact folder and the shared folders of one machine."""

    def __init__(
        self,
        link: RedisLink,
        keys: Keys,
        telemetry: Telemetry,
        *,
        artifacts: Path,
        shared: SharedFolders,
        threads: int,
        inline_seconds: float = INLINE_SECONDS,
    ) -> None:
        """``inline_seconds`` is the longest model run that the event loop may do itself; longer ones go to a thread."""
        self._link = link
        self._keys = keys
        self._telemetry = telemetry
        self._artifacts = artifacts
        self._shared = shared
        self._threads = threads
        self._inline_seconds = inline_seconds

    @classmethod
    def of(cls, settings: Settings, link: RedisLink, keys: Keys, telemetry: Telemetry) -> Loader:
        """A loader with the folders and threads of the settings."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return cls(
            link,
            keys,
            telemetry,
            artifacts=settings.artifact_folder,
            shared=SharedFolders(settings.table_folder),
            threads=settings.onnx_threads,
            inline_seconds=INLINE_SECONDS_ALONE if cores <= settings.workers else INLINE_SECONDS,
        )

    @property
    def shares(self) -> bool:
        """Whether other processes can map the folders that this one makes, as far as is known."""
        return self._shared.shares

    def close(self) -> None:
        """Release the shared folders; their files stay for the next start."""
        self._shared.close()

    async def prepare(self, wanted: str, revision: str) -> None:
        """Make the shared folders of a release, for other processes to load. Errors as in ``load``."""
        manifest = await self._manifest(wanted)
        if self._is_there(manifest, revision):
            return
        async with self._shared.turn():
            if not self._is_there(manifest, revision):  # others waited for the turn, too
                await self._columns(manifest, revision, await self._model(manifest))

    async def size(self, wanted: str, revision: str) -> int:
        """Number of items that a load would read from Redis; 0 if shared folders hold them. Errors as in ``load``."""
        manifest = await self._manifest(wanted)
        return 0 if self._is_there(manifest, revision) else manifest.items

    def _is_there(self, manifest: ReleaseManifest, revision: str) -> bool:
        return self._shared.has(*self._array_names(manifest, revision))

    async def keep(self, loaded: Collection[Loaded]) -> None:
        """Release all shared folders except those of ``loaded``, and delete old folders that no process uses."""
        await aside(self._shared.keep, frozenset[str]().union(*(one.folders for one in loaded)))

    async def load(self, wanted: str, revision: str, before: Loaded | None) -> Loaded:
        """The release ``wanted`` at ``revision``, ready to score; shared folders that exist already are used.

        ``before`` is the loaded release that this one is to replace, if any: with the same manifest, its model is used.
        ArtifactError or ScoringError if the release cannot be served, RedisUnavailable if Redis does not answer.
        """
        start = time.perf_counter()
        manifest = await self._manifest(wanted)
        # A refresh that changed records in place leaves the model as it is.
        unchanged = before is not None and before.release.manifest == manifest
        model = before.model if before is not None and unchanged else await self._model(manifest)
        async with self._shared.turn():
            table, columns = await self._columns(manifest, revision, model)
            folders = frozenset(self._array_names(manifest, revision))
        scorer = model.on(table, columns)
        await aside(_warm, scorer, model, table, self._inline_seconds)
        artifact = model.artifact
        schema, spaces = artifact.feature_schema, artifact.spaces
        retriever = await aside(ItemRetriever.open, self._artifacts, manifest, schema, spaces, table)
        release = Release(manifest, schema, spaces, table, scorer, retriever, revision, 0.0, 0.0)
        milliseconds = round((time.perf_counter() - start) * 1000.0, 3)
        return Loaded(replace(release, loaded_at=time.time(), swap_ms=milliseconds), model, folders)

    async def _model(self, manifest: ReleaseManifest) -> CtrModel:
        """The model of a release."""
        # Threads that sessions make for themselves would inherit the low priority of ``aside``, and reading a graph
        # that is whole holds the interpreter's lock.
        run = aside if manifest.parts and not makes_threads(self._threads) else asyncio.to_thread
        return await run(load_model, self._artifacts, manifest, self._threads)

    async def _columns(self, manifest: ReleaseManifest, revision: str, model: CtrModel) -> tuple[ItemTable, Columns]:
        """The item table, and the columns that the split model gives for it."""
        artifact, split = model.artifact, model.split
        items_name, columns_name = self._array_names(manifest, revision)

        async def read(new: NewArrays) -> None:
            await read_items(self._link, self._keys, manifest, artifact, self._telemetry, new)

        table = ItemTable.of(await shared_arrays(self._shared, items_name, read))
        if split is None:
            return table, {}

        async def compute(new: NewArrays) -> None:
            await aside(split.table_columns, table, new.allocate)

        return table, await shared_arrays(self._shared, columns_name, compute)

    def _array_names(self, manifest: ReleaseManifest, revision: str) -> tuple[str, str]:
        """Names of two shared sets of arrays: the item table, and the columns that the split model gives for it."""
        # A release's items change with its revision. Its manifest tells it from one that was published anew.
        whose = {"prefix": self._keys.prefix, "manifest": manifest.model_dump(mode="json"), "revision": revision}
        name = fingerprint({**whose, "runtime": runtime(), "format": _FORMAT})
        return f"items-{name}", f"columns-{name}"

    async def _manifest(self, wanted: str) -> ReleaseManifest:
        key = self._keys.release_manifest(wanted)
        (blob,) = await replies_to(self._link, [("GET", key)], Deadline(MANIFEST_SECONDS))
        if blob is None:
            raise ArtifactError(f"release {wanted}: there is no manifest")
        try:
            manifest = ReleaseManifest.model_validate_json(blob)
        except ValidationError as error:
            raise ArtifactError(f"release {wanted}: manifest is not understood: {error}") from error
        if manifest.id != wanted:
            raise ArtifactError(f"release {wanted}: manifest is of release {manifest.id}")
        return manifest


def _warm(scorer: OnnxScorer, model: CtrModel, table: ItemTable, inline_seconds: float) -> None:
    """Score slates of several lengths for a user without history, and set ``scorer.inline``: the number of candidates
    that take ``inline_seconds`` at most. ScoringError if the model fails."""
    user = UserBatch.single(model.artifact.feature_schema, table, {}, np.zeros(0, EVENT_DTYPE), {})
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
