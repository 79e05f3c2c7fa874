"""Indexes of a release's item vectors: made when the vectors change, from what the services read of them.

An index is a file beside the model's, named by what it was made of: equal vectors have one file, whichever releases
they belong to. The manifest names it, so release and indexes go live in one write.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
from pydantic import ValidationError

from models.contract.arrays import FloatArray
from models.contract.artifact import ItemIndex, ReleaseManifest, Role
from models.contract.bulk import knowledge_rows
from models.contract.events import item_hash
from models.contract.keys import of_each
from models.contract.schema import fingerprint
from offline.config import RetrievalConfig
from offline.data.files import file_digest, write_bytes, write_json
from offline.publish import release
from offline.publish.bulk import Bulk
from offline.publish.connection import Store
from offline.publish.gate import GateError
from offline.publish.knowledge import readable
from offline.publish.records import chunks
from offline.retrieval.build import RecallError, build, kind_for

_FORMAT = 3
"""Counts changes of how indexes are made."""

_MEAN_OF = 5
"""Items whose mean is a made-up query for neighbours."""


def roles(config: RetrievalConfig, spaces: Mapping[str, str]) -> dict[Role, str]:
    """The producer that each index is of, for a release of these spaces; fewer if it has no vectors to compare."""
    if not config.enabled:
        return {}
    matching = config.matching or "autograph"
    by_role: dict[Role, str] = {"matching": matching} if {f"user/{matching}", f"item/{matching}"} <= set(spaces) else {}
    alike = [config.neighbours] if config.neighbours else ["text", *by_role.values()]
    neighbours = next((name for name in alike if f"item/{name}" in spaces), None)
    return by_role | ({"neighbours": neighbours} if neighbours else {})


def indexed(
    store: Store, config: RetrievalConfig, manifest: ReleaseManifest, ids: Sequence[str], users: Sequence[str]
) -> ReleaseManifest:
    """The manifest with indexes of the vectors that Redis holds of ``ids`` now. ``users`` are asked for queries.

    GateError if an index does not find what it should.
    """
    producers = roles(config, manifest.spaces)
    indexer = _Indexer(store, config, manifest, users)
    indexes = {
        producer: indexer.index(producer, [role for role, other in producers.items() if other == producer], ids)
        for producer in set(producers.values())
    }
    by_role = {role: index for role, producer in producers.items() if (index := indexes[producer]) is not None}
    return manifest.model_copy(update={"indexes": by_role})


def outdated(store: Store, config: RetrievalConfig, manifest: ReleaseManifest) -> bool:
    """Whether the settings ask for other indexes than a release has, or a file of these is damaged."""
    spaces = {role: f"item/{producer}" for role, producer in roles(config, manifest.spaces).items()}
    if spaces != {role: index.space for role, index in manifest.indexes.items()}:
        return True
    return any(
        index.kind != (config.kind or kind_for(index.items, config.flat_up_to))
        or index.top != min(config.top, index.items)
        or index.recall < config.least_recall
        or file_digest(store.artifacts / index.file) != index.sha256
        for index in manifest.indexes.values()
    )


def refreshed(store: Store, config: RetrievalConfig, live: str, users: Sequence[str]) -> bool:
    """Bring the indexes of the live release up to date with its item records. True if its manifest changed."""
    manifest = release.read_manifest(store, live)
    ids = release.read_directory(store, manifest) if roles(config, manifest.spaces) else []
    current = indexed(store, config, manifest, ids, users)
    if current == manifest:
        return False
    release.write_manifest(store, current)
    return True


@dataclass(frozen=True, slots=True)
class _Indexer:
    store: Store
    config: RetrievalConfig
    manifest: ReleaseManifest
    users: Sequence[str]

    def index(self, producer: str, serves: Sequence[Role], ids: Sequence[str]) -> ItemIndex | None:
        """The index of one producer's item vectors for all roles that it serves, from the disk if it was made before;
        None if there are no vectors."""
        config, key = self.config, f"item/{producer}"
        known, vectors = self._vectors(key, ids)
        if not len(vectors):
            return None
        kind = config.kind or kind_for(len(vectors), config.flat_up_to)
        content = hashlib.sha256(vectors.tobytes() + "\0".join(known).encode()).hexdigest()
        settings = {"kind": kind, "top": config.top, "least": config.least_recall, "queries": config.queries}
        digest = fingerprint({"content": content, "serves": list(serves), "format": _FORMAT, **settings})
        path = self.store.artifacts / f"items-{producer}-{digest}.faiss"
        description = path.with_suffix(".json")
        if description.is_file():
            with suppress(ValidationError):  # damaged, and made again
                stored = ItemIndex.model_validate_json(description.read_bytes())
                if file_digest(path) == stored.sha256:
                    return stored
        queries = [self._queries(role, producer, vectors) for role in serves]
        hashes = np.fromiter(map(item_hash, known), np.uint64, len(known)).view(np.int64)
        try:
            built = build(vectors, hashes, queries, kind, config.top, config.least_recall)
        except RecallError as error:
            raise GateError(f"release {self.manifest.id}: index of {key}: {error}") from error
        index = ItemIndex(
            space=key,
            file=path.name,
            sha256=hashlib.sha256(built.content).hexdigest(),
            kind=kind,
            effort=built.effort,
            items=len(known),
            top=min(config.top, len(known)),
            recall=built.recall,
        )
        write_bytes(path, built.content)
        write_json(description, index.model_dump(mode="json"))
        print(f"  index of {key}: {kind}, effort {built.effort}, recall@{index.top} {built.recall:.4f}", flush=True)
        return index

    def _queries(self, role: Role, producer: str, vectors: FloatArray) -> FloatArray:
        """float32 [q, D], as the service will search: vectors of users, or means of some items' vectors."""
        random, count = np.random.default_rng(0), self.config.queries
        if role == "matching" and self.users:
            drawn = random.permutation(len(self.users))[: 4 * count]
            _, of_users = self._vectors(f"user/{producer}", [self.users[at] for at in drawn.tolist()])
            if len(of_users):
                return of_users[:count]
        return np.asarray(vectors[random.integers(len(vectors), size=(count, _MEAN_OF))].mean(axis=1), np.float32)

    def _vectors(self, key: str, owners: Sequence[str]) -> tuple[list[str], FloatArray]:
        """Ids [n] and vectors [n, D] of the owners of whom Redis holds a valid record of one vector in the space of
        "item/NAME" or "user/NAME"."""
        keys, space = self.store.keys, self.manifest.spaces[key]
        key_of = partial(keys.item_knowledge if key.startswith("item/") else keys.user_knowledge, space=space)
        names: list[str] = []
        parts: list[FloatArray] = []
        dim = 0
        with Bulk(self.store.redis) as bulk:
            for chunk in chunks(owners):
                blobs = bulk.get(of_each(key_of, chunk))
                records = (readable(blob, owner, space) for blob, owner in zip(blobs, chunk, strict=True))
                dim = dim or next((record.vectors.shape[1] for record in records if record), 0)
                rows = knowledge_rows(blobs, chunk, space, dim)
                order = np.argsort(rows.at)
                names += [chunk[at] for at in rows.at[order].tolist()]
                parts.append(rows.vectors[order])
        return names, np.concatenate(parts) if names else np.zeros((0, 0), np.float32)
