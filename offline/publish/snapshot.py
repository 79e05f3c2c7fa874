"""A release's item table as files: written with the release, and again when too much has changed since.

Between two snapshots the stream of changes tells the services which items to read; see ``models.contract.snapshot``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from models.contract import snapshot
from models.contract.artifact import ArtifactManifest, ItemSnapshot, ReleaseManifest
from models.contract.bulk import DecodedItems, ItemDecoder
from models.contract.items import Columns
from models.split_model import SplitModel, parts_folder
from offline.publish import records, release
from offline.publish.bulk import Bulk
from offline.publish.connection import Store
from offline.publish.records import append_change, chunks

_UNNAMED_SECONDS = 3600.0
"""How long a file stays after it was first seen without a release that names it: a service may be about to open it, or
a publication about to name it."""


@dataclass(slots=True)
class StoredItems:
    """The items of a release as Redis holds them, read after the change ``changes`` was noted.

    columns   of an item table, with spare rows; ``items`` of them have a valid record
    listed    items of the directory
    featured  items with a valid feature record
    covered   items with a valid record in each item space, by "item/liber" and the like
    """

    changes: str
    listed: int
    columns: Columns = field(default_factory=dict)
    items: int = 0
    featured: int = 0
    covered: dict[str, int] = field(default_factory=dict)


def read_items(store: Store, manifest: ReleaseManifest, artifact: ArtifactManifest) -> StoredItems:
    """Read the records of all items of a release. ArtifactError if its directory is not whole."""
    ids = release.read_directory(store, manifest)
    stored = StoredItems(append_change(store, manifest.id), len(ids))
    decoder = ItemDecoder(artifact)

    def decoded() -> Iterator[DecodedItems]:
        with Bulk(store.redis) as bulk:
            for chunk in chunks(ids):
                blobs = bulk.get([*chain(*decoder.keys(store.keys, manifest.id, chunk))])
                part = decoder.decode(chunk, [blobs[at : at + len(chunk)] for at in range(0, len(blobs), len(chunk))])
                stored.featured += int(part.featured.sum())
                for place, space in enumerate(decoder.spaces):
                    known = int((part.columns["expires_at"][:, place] != 0).sum())
                    stored.covered[space.key] = stored.covered.get(space.key, 0) + known
                yield part

    stored.columns, stored.items = snapshot.filled_columns(decoder, ids, decoded())
    return stored


def write_snapshot(store: Store, manifest: ReleaseManifest, stored: StoredItems) -> ItemSnapshot:
    """The files of a release's items, with the columns that the parts of its model give for them. ArtifactError if they
    give none."""
    columns = stored.columns
    if manifest.parts:
        split = SplitModel.open(parts_folder(store.artifacts / manifest.artifact), 1, manifest.parts)
        columns = split.completed(columns, stored.items)
    digests = snapshot.write_columns(store.artifacts, columns)
    return ItemSnapshot(changes=stored.changes, items=stored.items, columns=digests)


def refreshed(store: Store, of: str, parts: Mapping[str, str] | None = None) -> bool:
    """Write a new snapshot of a release if it has none, a damaged one, or one that too much has changed since, or if
    its model was exported again and has other ``parts``. True if its manifest changed."""
    manifest = release.read_manifest(store, of)
    is_due = _is_due(store, manifest)
    if parts is not None and parts != manifest.parts:
        manifest, is_due = manifest.model_copy(update={"parts": parts}), True
    if not is_due:
        return False
    artifact = release.read_model(store.artifacts / manifest.artifact)
    written = write_snapshot(store, manifest, read_items(store, manifest, artifact))
    release.write_manifest(store, manifest.model_copy(update={"snapshot": written}))
    prune(store)
    return True


def prune(store: Store) -> None:
    """Remove files of indexes, snapshots and popularity that no release has named for an hour.

    An empty file beside each, ``.unnamed``, carries the time at which nothing named it first. A publication that takes
    a file for a release that it has not completed touches the file itself.
    """
    named: set[str] = set()
    for release_id in release.releases(store):
        if (manifest := release.manifest_or_none(store, release_id)) is not None:
            named |= {index.file for index in manifest.indexes.values()}
            if manifest.snapshot is not None:
                named |= {snapshot.file_of(digest) for digest in manifest.snapshot.columns.values()}
            if manifest.popularity is not None:
                named.add(manifest.popularity.file)
    for pattern in ("items-*.faiss", "popularity-*.npy", *snapshot.FILES):
        for path in store.artifacts.glob(pattern):
            mark = path.with_name(f"{path.name}.unnamed")
            if path.name in named:
                mark.unlink(missing_ok=True)
            elif not mark.exists():
                mark.touch()
            elif max(mark.stat().st_mtime, path.stat().st_mtime) < time.time() - _UNNAMED_SECONDS:
                for gone in (path, path.with_suffix(".json"), mark):
                    gone.unlink(missing_ok=True)


def _is_due(store: Store, manifest: ReleaseManifest) -> bool:
    if manifest.snapshot is None:
        return True
    capacity = snapshot.capacity(store.artifacts, manifest.snapshot.columns)
    if capacity is None or manifest.items > capacity:
        return True
    since = manifest.snapshot.changes
    entries: Any = store.redis.xrange(store.keys.changes, min=since)
    changed = snapshot.changed_items(entries, since, {manifest.id, *manifest.spaces.values()})
    return changed is None or len(changed) > records.LONGEST_CHANGE
