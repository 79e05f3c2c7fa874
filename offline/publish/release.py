"""The live pointer and the releases behind it: switch by compare-and-set, roll back by the same write, prune later."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from models.contract.artifact import ArtifactError, ArtifactManifest, RefusedModel, ReleaseManifest
from models.contract.keys import of_each
from offline.publish.bulk import Bulk
from offline.publish.connection import Store
from offline.publish.records import Written, append_change

DIRECTORY_BLOCK = 4096
_ID = re.compile(r"(.+)-[0-9a-f]{12}")
"""Ids of releases, with the name of the configuration: see ``publish.release_id``."""

_LONGEST_LIST = 100
"""Releases that are listed as withdrawn, at most."""

_PINS_HOLD_DAYS = 7
"""How long a release stays after a service last had it for an arm."""

_COMPARE_AND_SET = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""


class SwitchError(RuntimeError):
    """The live pointer was not moved, because it is not where the caller thought, or there is nowhere to move it."""


def live_release(store: Store) -> str | None:
    """Id of the release that is served, or None before the first."""
    live: Any = store.redis.get(store.keys.live)
    return live.decode() if live else None


def releases(store: Store) -> list[str]:
    """Ids of the releases that are or were live and are still held, in the order in which they first went live."""
    return stored_list(store, store.keys.releases)


def withdrawn(store: Store) -> list[str]:
    """Ids of the releases that somebody rolled back from."""
    return stored_list(store, store.keys.withdrawn)


def configuration_of(store: Store, release: str) -> str | None:
    """The name of the configuration that published a release: as its manifest says, or else, of one from before
    manifests said it, as its id begins. None if neither does."""
    manifest = manifest_or_none(store, release)
    if manifest is not None and manifest.configuration is not None:
        return manifest.configuration
    named = _ID.fullmatch(release)
    return named[1] if named else None


def is_of_another(store: Store, release: str, configuration: str) -> bool:
    """Whether a release is known to be another configuration's."""
    return configuration_of(store, release) not in (None, configuration)


def refuse_another(store: Store, configuration: str) -> None:
    """SwitchError if the live release is another configuration's."""
    live = live_release(store)
    if live is not None and is_of_another(store, live, configuration):
        raise SwitchError(
            f"release {live} of configuration {configuration_of(store, live)} is live under the key prefix "
            f"{store.keys.prefix}, and this is configuration {configuration}: let LORANK_KEY_PREFIX name a prefix of "
            "its own, or nothing, or say `--take-over` to `refresh` or `publish` to replace that release"
        )


def record(store: Store, release: str) -> None:
    """Note that a release is live: it is listed, and no longer withdrawn."""
    listed = releases(store)
    if release not in listed:
        store.redis.set(store.keys.releases, json.dumps([*listed, release]))
    left = withdrawn(store)
    if release in left:
        left.remove(release)
        store.redis.set(store.keys.withdrawn, json.dumps(left))


def read_manifest(store: Store, release: str) -> ReleaseManifest:
    """A release's manifest; ArtifactError if it is absent (never completed, or pruned) or not understood."""
    document: Any = store.redis.get(store.keys.release_manifest(release))
    if document is None:
        raise ArtifactError(f"release {release} has no manifest")
    try:
        return ReleaseManifest.model_validate_json(document)
    except ValidationError as error:
        raise ArtifactError(f"manifest of release {release} is not understood: {error}") from error


def manifest_or_none(store: Store, release: str) -> ReleaseManifest | None:
    """``read_manifest``, None in place of its error."""
    try:
        return read_manifest(store, release)
    except ArtifactError:
        return None


def read_directory(store: Store, manifest: ReleaseManifest) -> list[str]:
    """Item ids of a release; ArtifactError if a block of its directory is missing."""
    ids: list[str] = []
    for block in range(manifest.directory_blocks):
        document: Any = store.redis.get(store.keys.item_directory(manifest.id, block))
        if document is None:
            raise ArtifactError(f"item directory block {block} is missing")
        ids += json.loads(document)
    return ids


def read_model(path: Path) -> ArtifactManifest:
    """The manifest inside a model's file; ArtifactError if there is none."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # what onnx raises

    try:
        properties = onnx.load_model(path, load_external_data=False).metadata_props
    except (OSError, DecodeError) as error:
        raise ArtifactError(str(error)) from error
    return ArtifactManifest.from_metadata({entry.key: entry.value for entry in properties})


def write_directory(store: Store, release: str, item_ids: Sequence[str]) -> Written:
    """The release's item directory, block by block."""
    result = Written()
    for number, at in enumerate(range(0, len(item_ids), DIRECTORY_BLOCK)):
        block = json.dumps(list(item_ids[at : at + DIRECTORY_BLOCK])).encode()
        store.redis.set(store.keys.item_directory(release, number), block)
        result.add(block)
    return result


def write_manifest(store: Store, manifest: ReleaseManifest) -> bytes:
    """Complete a release: its manifest is the last thing that is written of it. Its bytes."""
    blob = manifest.to_json().encode()
    store.redis.set(store.keys.release_manifest(manifest.id), blob)
    return blob


def switch(store: Store, expected: str | None, to: str) -> None:
    """Move the live pointer from ``expected`` to ``to``. SwitchError if somebody else moved it meanwhile, or if no
    service could load the release."""
    if read_manifest(store, to).snapshot is None:
        raise SwitchError(f"release {to} has no files of its items: an earlier version published it; `refresh` instead")
    if not store.redis.eval(_COMPARE_AND_SET, 1, store.keys.live, expected or "", to):
        raise SwitchError(f"live release is {live_release(store)}, not {expected}: somebody else switched")
    record(store, to)


def refused_model(store: Store) -> RefusedModel | None:
    """The model that the gate refused last, unless another has gone live since."""
    document: Any = store.redis.get(store.keys.refused_model)
    return RefusedModel.parse(document)


def note_refused(store: Store, refused: RefusedModel | None) -> None:
    """Note which model is refused, or that none is: services and later runs tell of it."""
    if refused is None:
        store.redis.delete(store.keys.refused_model)
    else:
        store.redis.set(store.keys.refused_model, refused.model_dump_json())


def refusal_line(refused: RefusedModel) -> str:
    """The refusal in a line, with the remedy."""
    return (
        f"model_refused: {refused.release} stays off and {refused.live} stays live: {'; '.join(refused.reasons)} "
        "(`publish --accept` lets it go live all the same)"
    )


def begin_change(store: Store, release: str) -> bool:
    """Note that records of a release are about to change. True if an earlier publication was killed at that."""
    return store.redis.set(store.keys.release_pending(release), 1, get=True) is not None


def end_change(store: Store, release: str, changed: bool) -> None:
    """The counterpart of ``begin_change``; if records ``changed``, the services are told to read what changed."""
    if changed:
        store.redis.set(store.keys.release_revision(release), append_change(store, release))
    store.redis.delete(store.keys.release_pending(release))


def rollback(store: Store, to: str | None = None) -> tuple[str, str]:
    """Back to the newest release before the live one that nobody rolled back from, or to ``to``.

    Returns (from, to). The release that is left is withdrawn: no refresh goes back to it by itself. SwitchError if
    there is nowhere to go.
    """
    live = live_release(store)
    if live is None:
        raise SwitchError("nothing is live yet")
    listed, left = releases(store), withdrawn(store)
    if to is None:
        before = listed[: listed.index(live)] if live in listed else listed
        earlier = [name for name in before if name not in left]
        if not earlier:
            raise SwitchError(f"there is no release before {live}")
        to = earlier[-1]
    elif to not in listed:
        raise SwitchError(f"release {to} is not held; there are {', '.join(listed)}")
    if to == live:
        raise SwitchError(f"release {to} is live already")
    switch(store, live, to)
    store.redis.set(store.keys.withdrawn, json.dumps([*withdrawn(store), live][-_LONGEST_LIST:]))
    return live, to


def prune(store: Store, keep: int) -> list[str]:
    """Delete all but the live release, those that arms of experiments pin, and the newest ``keep`` that nobody rolled
    back from: a rollback needs somewhere good to go. Artifact files stay on disk. Knowledge does not belong to one
    release: what is of a space that no release is left of expires, because nobody renews it."""
    listed, live, left = releases(store), live_release(store), withdrawn(store)
    pinned: Any = store.redis.zrangebyscore(store.keys.pins, time.time() - _PINS_HOLD_DAYS * 86_400, "+inf")
    in_use = [*[name for name in listed if name not in left][-keep:], *(name.decode() for name in pinned), live]
    old = [name for name in listed if name not in in_use]
    for name in old:
        manifest = manifest_or_none(store, name)
        delete(store, name, 0 if manifest is None else manifest.directory_blocks)
    if old:
        store.redis.set(store.keys.releases, json.dumps([name for name in listed if name not in old]))
    return old


def delete(store: Store, release: str, directory_blocks: int) -> None:
    """Delete a release's records, the manifest first, so that nothing half deleted looks complete."""
    keys = store.keys
    store.redis.delete(keys.release_manifest(release))
    store.redis.delete(keys.release_revision(release), keys.release_pending(release))
    with Bulk(store.redis) as bulk:
        for number in range(directory_blocks):
            key = keys.item_directory(release, number)
            document: Any = store.redis.get(key)
            items = json.loads(document) if document else []
            bulk.delete([*of_each(lambda item: keys.item_features(item, release), items), key])


def stored_list(store: Store, key: str) -> list[str]:
    """The list in a key; empty where there is none."""
    document: Any = store.redis.get(key)
    return list(json.loads(document)) if document else []
