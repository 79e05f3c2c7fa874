"""What is popular now: likes of the last days, in a file beside the model that the release's manifest names.

Without ``popularity_days`` there is no such file, and services count all likes alike, from the items' records.
"""

from __future__ import annotations

import hashlib

import numpy as np

from models.contract.arrays import FloatArray
from models.contract.artifact import ItemPopularity, ReleaseManifest
from models.contract.popularity import pack_likes
from offline.data.files import file_digest, write_bytes
from offline.data.log import InteractionLog
from offline.publish import release
from offline.publish.connection import Store

_DAY_MS = 86_400_000


def with_popularity(
    store: Store, manifest: ReleaseManifest, log: InteractionLog, liked_above: float, days: float | None
) -> ReleaseManifest:
    """The manifest with a file of the likes of the last ``days``; with none for None."""
    if days is None:
        return manifest.model_copy(update={"popularity": None})
    likes = recent_likes(log, liked_above, days)
    content = pack_likes(log.item_ids, likes)
    digest = hashlib.sha256(content).hexdigest()
    path = store.artifacts / f"popularity-{digest[:32]}.npy"
    if file_digest(path) == digest:
        path.touch()  # no release may name it yet: snapshot.prune
    else:
        write_bytes(path, content)
    described = ItemPopularity(file=path.name, sha256=digest, days=days, items=int(np.count_nonzero(likes)))
    return manifest.model_copy(update={"popularity": described})


def update_popularity(store: Store, live: str, log: InteractionLog, liked_above: float, days: float | None) -> bool:
    """Bring the file of the live release up to date with the log. True if its manifest changed."""
    manifest = release.read_manifest(store, live)
    current = with_popularity(store, manifest, log, liked_above, days)
    if current == manifest:
        return False
    release.write_manifest(store, current)
    return True


def recent_likes(log: InteractionLog, liked_above: float, days: float) -> FloatArray:
    """float32 [items]: likes within ``days`` before the newest interaction of the log."""
    observed = log.observed
    times = log.time_ms[observed]
    newest = int(times.max(initial=0))
    rows = observed[(times > newest - days * _DAY_MS) & (log.value[observed] > liked_above)]
    return np.bincount(log.item[rows], minlength=len(log.item_ids)).astype(np.float32)
