"""The item table of a release: mapped from its files and brought up to date from Redis, or made of the records there.

Knows Redis' keys of items, the stream of changes and the artifact folder. Does not know which release is served.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.contract.artifact import ArtifactError, ItemSnapshot, ReleaseManifest
from models.contract.bulk import DecodedItems, ItemDecoder
from models.contract.keys import Keys
from models.contract.snapshot import Entry, TableUpdate, changed_items, file_of, filled_columns, read_columns
from service.ranking.deadline import Deadline
from service.redis import RedisPort, replies_to
from service.redis_connection import Command
from service.releases.background import ThreadRunner
from service.releases.loaded import FileState, Loaded, LoadedItems
from service.releases.unmapping import unmap_gently
from service.scoring import CtrModel
from service.telemetry import Telemetry

CHUNK = 2000
CHUNK_SECONDS = 10.0
"""Items per read, and how long one read may take before the load is given up and tried again."""

ENTRIES = 200
"""Stream entries per read; each names a thousand items at most."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class ItemReader:
    """Reads item tables from one Redis and one artifact folder."""

    link: RedisPort
    keys: Keys
    telemetry: Telemetry
    artifacts: Path

    async def read(
        self,
        manifest: ReleaseManifest,
        model: CtrModel,
        before: Loaded | None,
        files: Mapping[Path, FileState | None],
        run: ThreadRunner,
    ) -> LoadedItems:
        """The item table of a release, with the items that have changed since its snapshot; ``files`` are their states
        now. ``before`` is the loaded release that it is to replace.

        Of damaged files Redis takes the place, as the truth of which they are a copy, unless another release is
        served: that one goes on, because whoever copies files is perhaps not done.
        """
        snapshot = manifest.snapshot
        if snapshot is None:
            raise ArtifactError(
                f"release {manifest.id} was published by an earlier version, without files of its items: run "
                "`python -m offline refresh`, or `publish`"
            )
        trusted = frozenset() if before is None else _unchanged(before, files)
        try:
            columns = await run(read_columns, self.artifacts, snapshot.columns, trusted)
        except ArtifactError as error:
            if before is not None and before.release.id != manifest.id:
                raise
            update = await self._from_records(manifest, snapshot, model, str(error), run)
            return LoadedItems(update, f"items were read from Redis: {error}")
        unmap_gently(columns)
        update, since = TableUpdate(columns, snapshot.items), snapshot.changes
        # Another model's columns of the items that have changed would be others, or none.
        same = before is not None and model is before.model and before.release.manifest.snapshot == snapshot
        if before is not None and same and before.release.id == manifest.id and before.items.problem is None:
            await run(update.take_over, before.items.update)
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
        self._count(decoder)
        return LoadedItems(update)

    async def _from_records(
        self, manifest: ReleaseManifest, snapshot: ItemSnapshot, model: CtrModel, problem: str, run: ThreadRunner
    ) -> TableUpdate:
        """The table made of the records in Redis, in the memory of this process. ArtifactError, which says the
        ``problem`` first, if Redis holds fewer items than the files did."""
        try:
            ids = await self._directory(manifest)
        except ArtifactError as error:
            raise ArtifactError(f"{problem}; {error}") from error
        log.error("release %s: %s; its %d items are read from Redis meanwhile", manifest.id, problem, len(ids))
        decoder = ItemDecoder(model.artifact)
        decoded: list[DecodedItems] = []
        for start in range(0, len(ids), CHUNK):
            part = ids[start : start + CHUNK]
            decoded.append(await run(decoder.decode, part, await self._records(manifest, decoder, part)))
        self._count(decoder)
        columns, items = await run(filled_columns, decoder, ids, decoded)
        if items < snapshot.items:
            raise ArtifactError(f"{problem}; and Redis holds {items} of its {snapshot.items} items")
        if model.split is not None:
            columns = await run(model.split.completed, columns, items)
        return TableUpdate(columns, items)

    def _count(self, decoder: ItemDecoder) -> None:
        for kind, count in decoder.refused.items():
            self.telemetry.refused_records.labels(kind).inc(count)

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


def _unchanged(before: Loaded, files: Mapping[Path, FileState | None]) -> Collection[str]:
    """Digests of columns whose files are as they were when ``before`` was read from them."""
    snapshot = before.release.manifest.snapshot
    if snapshot is None or before.items.problem is not None:
        return frozenset()
    same = {path.name for path, state in files.items() if state is not None and before.files.get(path) == state}
    return frozenset(digest for digest in snapshot.columns.values() if file_of(digest) in same)


def _write(update: TableUpdate, decoder: ItemDecoder, ids: Sequence[str], read: Sequence[Any], model: CtrModel) -> None:
    """Write items into a table, with the columns that a split model gives for them."""
    rows = update.write(decoder.decode(ids, read))
    if model.split is not None and len(rows):
        for name, cells in model.split.columns(update.table(), rows).items():
            update.columns[name][rows] = cells
