"""The live pointer and the releases behind it: switch by compare-and-set, roll back by the same write, prune later."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from models.contract.artifact import ArtifactError, ReleaseManifest
from offline.publish.connection import Store

DIRECTORY_BLOCK = 4096

_COMPARE_AND_SET = """
local held = redis.call('GET', KEYS[1]) or ''
if held ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""


class SwitchError(RuntimeError):
    """The live pointer was not moved, because it is not where the caller thought, or there is nowhere to move it."""


def live_release(store: Store) -> str | None:
    """Id of the release that is served, or None before the first."""
    held: Any = store.redis.get(store.keys.live)
    return held.decode() if held else None


def releases(store: Store) -> list[str]:
    """Ids of the published releases, oldest first."""
    held: Any = store.redis.get(store.keys.releases)
    return list(json.loads(held)) if held else []


def read_manifest(store: Store, release: str) -> ReleaseManifest:
    """A release's manifest; ArtifactError if it is absent (never completed, or pruned) or not understood."""
    held: Any = store.redis.get(store.keys.release_manifest(release))
    if held is None:
        raise ArtifactError(f"release {release} has no manifest")
    try:
        return ReleaseManifest.model_validate_json(held)
    except ValidationError as error:
        raise ArtifactError(f"manifest of release {release} is not understood: {error}") from error


def write_directory(store: Store, release: str, item_ids: Sequence[str]) -> int:
    """The release's item directory; how many blocks it has."""
    blocks = [item_ids[at : at + DIRECTORY_BLOCK] for at in range(0, len(item_ids), DIRECTORY_BLOCK)]
    for number, block in enumerate(blocks):
        store.redis.set(store.keys.item_directory(release, number), json.dumps(list(block)))
    return len(blocks)


def write_manifest(store: Store, manifest: ReleaseManifest) -> None:
    """Complete a release: its manifest, and its place at the end of the list."""
    store.redis.set(store.keys.release_manifest(manifest.id), manifest.model_dump_json())
    listed = [one for one in releases(store) if one != manifest.id]
    store.redis.set(store.keys.releases, json.dumps([*listed, manifest.id]))


def switch(store: Store, expected: str | None, to: str) -> None:
    """Move the live pointer from ``expected`` to ``to``. SwitchError if somebody else moved it meanwhile."""
    read_manifest(store, to)
    moved = store.redis.eval(_COMPARE_AND_SET, 1, store.keys.live, expected or "", to)
    if not moved:
        raise SwitchError(f"live release is {live_release(store)}, not {expected}: somebody else switched")


def announce_change(store: Store, release: str) -> None:
    """Tell the services that records of a release changed in place."""
    store.redis.incr(store.keys.release_revision(release))


def rollback(store: Store, to: str | None = None) -> tuple[str, str]:
    """Back to the release before the live one, or to ``to``. Returns (from, to); SwitchError if there is none."""
    live = live_release(store)
    if live is None:
        raise SwitchError("nothing is live yet")
    listed = releases(store)
    if to is None:
        earlier = listed[: listed.index(live)] if live in listed else []
        if not earlier:
            raise SwitchError(f"there is no release before {live}")
        to = earlier[-1]
    elif to not in listed:
        raise SwitchError(f"release {to} is not published; there are {', '.join(listed)}")
    switch(store, live, to)
    return live, to


def prune(store: Store, keep: int) -> list[str]:
    """Delete all but the newest ``keep`` releases; the live one always stays. Artifact files stay on disk."""
    listed, live = releases(store), live_release(store)
    old = [one for one in listed[:-keep] if one != live]
    store.redis.set(store.keys.releases, json.dumps([one for one in listed if one not in old]))
    for release in old:
        _delete(store, release)
    return old


def _delete(store: Store, release: str) -> None:
    try:
        blocks = read_manifest(store, release).directory_blocks
    except ArtifactError:
        blocks = 0
    for number in range(blocks):
        key = store.keys.item_directory(release, number)
        held: Any = store.redis.get(key)
        items = json.loads(held) if held else []
        pipeline = store.redis.pipeline(transaction=False)
        for item in items:
            pipeline.delete(store.keys.item_features(item, release))
        pipeline.delete(key)
        pipeline.execute()
    store.redis.delete(store.keys.release_manifest(release), store.keys.release_revision(release))
