"""Loads one release: its model, its item table, its indexes.

Knows Redis' keys of a release and the artifact folder. Does not know which release is served.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from models.contract.artifact import ArtifactError, ReleaseManifest
from models.contract.encoding import UserBatch
from models.contract.events import EVENT_DTYPE
from models.contract.items import ItemTable
from models.contract.keys import Keys
from models.contract.snapshot import model_columns
from models.cores import usable_cores
from models.onnx_runtime import makes_threads
from service.ranking.deadline import Deadline
from service.ranking.ports import Release
from service.ranking.types import Sample
from service.redis import RedisPort, replies_to
from service.releases.background import ThreadRunner, run_in_background
from service.releases.items import ItemReader
from service.releases.loaded import Loaded, file_states
from service.retrieval.retriever import ItemRetriever
from service.scoring import INLINE_SECONDS, INLINE_SECONDS_ALONE, CtrModel, OnnxScorer, load_model
from service.settings import Settings
from service.telemetry import Telemetry

MANIFEST_SECONDS = 2.0

WARM_COUNTS = (1, 50, 200, 500)
"""Slate lengths of the warm-up: first runs allocate, and the first caller should not pay for it."""


def _run_in(before: Loaded | None) -> ThreadRunner:
    """Where to load a release: in the background, unless nothing is served yet that could be held up. Beside busy
    neighbours the lowest priority makes minutes of seconds."""
    return asyncio.to_thread if before is None else run_in_background


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
        inline_seconds = INLINE_SECONDS_ALONE if usable_cores() <= settings.workers else INLINE_SECONDS
        return cls(link, keys, telemetry, settings.artifact_folder, settings.onnx_threads, inline_seconds)

    async def load(self, release_id: str, revision: str, before: Loaded | None) -> Loaded:
        """The release at ``revision``, ready to score.

        ``before`` is the loaded release that this one is to replace, if any: what the two share is taken from it.
        ArtifactError or ScoringError if the release cannot be served, ShortageError if this process cannot read it now,
        RedisUnavailable if Redis does not answer.
        """
        start = time.perf_counter()
        run = _run_in(before)
        manifest = await self._manifest(release_id)
        files = await run(file_states, self.artifacts, manifest)
        model = await self._model(manifest, before)
        reader = ItemReader(self.link, self.keys, self.telemetry, self.artifacts)
        items = await reader.read(manifest, model, before, files, run)
        table = items.update.table()
        scorer = model.on(table, model_columns(items.update.columns))
        await run(_warm, scorer, model, table, self.inline_seconds)
        schema, spaces = model.artifact.feature_schema, model.artifact.spaces
        retriever = await run(ItemRetriever.open, self.artifacts, manifest, schema, spaces, table)
        milliseconds = round((time.perf_counter() - start) * 1000.0, 3)
        release = Release(
            manifest, schema, spaces, table, scorer, retriever, revision,
            loaded_at=time.time(), swap_ms=milliseconds, items_problem=items.problem,
        )  # fmt: skip
        return Loaded(release, model, items, files)

    async def is_to_be_read_again(self, loaded: Loaded) -> bool:
        """Whether a file of a loaded release could not be used, and a file has changed since."""
        if not loaded.is_damaged:
            return False
        return bool(await run_in_background(file_states, self.artifacts, loaded.release.manifest) != loaded.files)

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
