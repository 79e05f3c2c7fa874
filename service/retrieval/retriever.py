"""Candidates of one release for requests that bring none: near a user's vector, like what a user liked, and popular.

Knows the item table and its indexes. Does not know models, arms or requests.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.contract.arrays import FloatArray, IntArray
from models.contract.artifact import ArtifactError, ReleaseManifest, Role
from models.contract.items import ItemTable, liked_count
from models.contract.knowledge import Space
from models.contract.popularity import read_likes
from models.contract.schema import FeatureSchema
from service.ranking.types import RetrievalRequest, Retrieved, UserState
from service.retrieval.filters import Filter, attributes
from service.retrieval.index import FaissIndex

SOURCES = ("matching", "neighbours", "popular")

POPULAR_SHARE = 0.5
"""Share of the candidates that are taken by popularity; the others are near a vector. Vectors know a user's taste,
popularity knows what everybody likes, and each finds items that the other misses. A half found most on the validation
split (docs/retrieval.md)."""

LIKED_ITEMS = 20
"""Number of the last liked items whose mean vector neighbours are searched near."""

INLINE_ITEMS = 50_000
"""Catalogues up to this size are searched on the event loop; a thread would cost more than it frees."""

_MOST_POPULAR = 5_000
_MOST_FILTERS = 16

log = logging.getLogger(__name__)


class ItemRetriever:
    """The port ``Retriever`` on the item table of one release."""

    def __init__(
        self,
        table: ItemTable,
        schema: FeatureSchema,
        spaces: Sequence[Space],
        indexes: Mapping[Role, FaissIndex],
        problem: str | None = None,
        recent: npt.NDArray[np.void] | None = None,
    ) -> None:
        """``recent`` are likes of the last days, as ``models.contract.popularity`` has them; None: all likes count."""
        self._table = table
        self._schema = schema
        self._indexes = indexes
        self._user_space = {space.name: space.fingerprint for space in spaces if space.side == "user"}
        self._popularity = _popularity(table, liked_count(schema, table.numeric), recent)
        self._popularity[0] = -np.inf
        self._popular = _largest(self._popularity, min(_MOST_POPULAR, len(table) - 1))
        self._attributes = lru_cache(_MOST_FILTERS)(partial(attributes, schema, table))
        self.problem = problem

    @classmethod
    def open(
        cls, folder: Path, manifest: ReleaseManifest, schema: FeatureSchema, spaces: Sequence[Space], table: ItemTable
    ) -> ItemRetriever:
        """The retriever of a release, with its indexes and its recent likes. A file that cannot be used is left out,
        and ``problem`` says why."""
        opened: dict[str, FaissIndex] = {}
        problems = []
        for file, described in {index.file: index for index in manifest.indexes.values()}.items():
            try:
                opened[file] = FaissIndex.open(folder, described, table)
            except ArtifactError as error:
                log.error("release %s: %s", manifest.id, error)
                problems.append(str(error))
        recent = None
        if manifest.popularity is not None:
            try:
                recent = read_likes(folder, manifest.popularity)
            except ArtifactError as error:
                log.error("release %s: %s", manifest.id, error)
                problems.append(str(error))
        indexes = {role: opened[index.file] for role, index in manifest.indexes.items() if index.file in opened}
        return cls(table, schema, spaces, indexes, "; ".join(problems) or None, recent)

    async def retrieve(self, request: RetrievalRequest, user: UserState, knowledge: bool) -> Retrieved:
        """See the port."""
        if len(self._table) <= INLINE_ITEMS:
            return self._retrieve(request, user, knowledge)
        return await asyncio.to_thread(self._retrieve, request, user, knowledge)

    def _retrieve(self, request: RetrievalRequest, user: UserState, knowledge: bool) -> Retrieved:
        allowed = self._filter(request)
        excluded = self._excluded(request, user)
        complete = self.problem is None or not knowledge
        near: tuple[Role, IntArray] | None = None
        if knowledge:
            try:
                near = self._near(user, request.count, allowed, excluded)
            except Exception:
                log.exception("an index cannot be searched")
                complete = False
        popular = self._most_popular(request.count, allowed, excluded)
        personal = request.count - int(request.count * POPULAR_SHARE)
        rows, counts = _merged(near, popular, request.count, personal)
        return Retrieved(tuple(self._table.ids[row] for row in rows.tolist()), counts, complete)

    def _near(self, user: UserState, count: int, allowed: Filter, excluded: IntArray) -> tuple[Role, IntArray] | None:
        """Rows near the user's vector; of a user without one, near what it liked. None for a user without either."""
        queries: dict[Role, Callable[[UserState, FaissIndex], FloatArray | None]] = {
            "matching": self._user_vector,
            "neighbours": self._liked,
        }
        for role, query in queries.items():
            index = self._indexes.get(role)
            vector = None if index is None else query(user, index)
            if index is not None and vector is not None:
                return role, self._search(role, index, vector, count, allowed, excluded)
        return None

    def _user_vector(self, user: UserState, index: FaissIndex) -> FloatArray | None:
        name = index.described.space.partition("/")[2]
        record = user.knowledge.get(self._user_space.get(name, ""))
        return None if record is None else record.vectors[-1]

    def _liked(self, user: UserState, index: FaissIndex) -> FloatArray | None:
        """The mean of what is known of the items that the user liked last."""
        liked = user.events[user.events["value"] > self._schema.liked_above][-LIKED_ITEMS:]
        rows = self._table.rows_of_hashes(liked["item"])
        vectors = self._vectors(index, rows[rows > 0])
        vectors = vectors[vectors.any(axis=1)]
        return np.asarray(vectors.mean(axis=0), np.float32) if len(vectors) else None

    def _search(
        self, role: Role, index: FaissIndex, query: FloatArray, count: int, allowed: Filter, excluded: IntArray
    ) -> IntArray:
        if allowed.rows is not None and not (index.is_exact and len(allowed.rows) > count):
            rows = np.setdiff1d(allowed.rows, excluded)
            return rows[_largest(self._vectors(index, rows) @ query, count)]
        if allowed.mask is None and not len(excluded):
            return index.nearest(query, count)
        if role not in allowed.bits:
            allowed.bits[role] = index.bits(allowed.mask)
        return index.nearest(query, count, index.without(allowed.bits[role], excluded))

    def _vectors(self, index: FaissIndex, rows: IntArray) -> FloatArray:
        columns = self._schema.item_columns[index.described.space.partition("/")[2]]
        return self._table.vectors[rows, columns]

    def _most_popular(self, count: int, allowed: Filter, excluded: IntArray) -> IntArray:
        rows = self._popular if allowed.mask is None else self._popular[allowed.mask[self._popular]]
        rows = rows[~np.isin(rows, excluded)][:count]
        if len(rows) == count or len(self._popular) == len(self._table) - 1:
            return rows
        left = np.ones(len(self._table), np.bool_) if allowed.mask is None else allowed.mask.copy()
        left[excluded] = left[0] = False
        every = np.flatnonzero(left)
        return every[_largest(self._popularity[every], count)]

    def _excluded(self, request: RetrievalRequest, user: UserState) -> IntArray:
        """Rows that must not be found, each once."""
        rows = [self._table.rows_of(request.deny)] if request.deny else []
        if request.exclude_seen:
            rows.append(self._table.rows_of_hashes(user.events["item"]))
        every = np.unique(np.concatenate(rows)) if rows else np.zeros(0, np.int64)
        return every[every > 0]

    def _filter(self, request: RetrievalRequest) -> Filter:
        """Rows that the request lets through. The last few sets of attributes are remembered: a page asks the same
        again."""
        having = self._attributes(
            tuple(
                (name, tuple(None if value is None else str(value) for value in values))
                for name, values in request.where.items()
            )
        )
        if request.allow is None:
            return having
        mask = np.zeros(len(self._table), np.bool_)
        mask[self._table.rows_of(request.allow)] = True
        if having.mask is not None:
            mask &= having.mask
        mask[0] = False
        return Filter(mask, np.flatnonzero(mask))


def _popularity(table: ItemTable, liked: FloatArray, recent: npt.NDArray[np.void] | None) -> FloatArray:
    """float32 [N], larger for more popular items: by all likes [N], or by ``recent`` ones with all likes as the tie
    break."""
    if recent is None:
        return liked
    likes = np.zeros(len(table), np.float32)
    likes[table.rows_of_hashes(recent["item"])] = recent["likes"]
    likes[0] = 0.0  # of items that the table does not hold
    places = np.empty(len(table), np.float32)
    places[np.lexsort((-liked, -likes))] = np.arange(len(table), dtype=np.float32)
    return -places


def _merged(
    near: tuple[Role, IntArray] | None, popular: IntArray, count: int, personal: int
) -> tuple[IntArray, dict[str, int]]:
    """Up to ``count`` distinct rows: up to ``personal`` of those that are near, popular ones, and then the remaining
    near ones. With the number of rows by source."""
    role, nearest = near or ("matching", popular[:0])
    rows: dict[int, str] = {}
    for source, part in ((role, nearest[:personal]), ("popular", popular), (role, nearest[personal:])):
        for row in part.tolist():
            if len(rows) == count:
                break
            rows.setdefault(row, source)
    return np.fromiter(rows, np.int64, len(rows)), dict.fromkeys(SOURCES, 0) | Counter(rows.values())


def _largest(scores: FloatArray, count: int) -> IntArray:
    """Positions of the ``count`` largest scores, the largest first; of equal ones the first."""
    if count == 0:
        return np.zeros(0, np.int64)
    if count < len(scores):
        bound = np.partition(scores, len(scores) - count)[len(scores) - count]
        at = np.flatnonzero(scores >= bound)
    else:
        at = np.arange(len(scores))
    return at[np.argsort(-scores[at], kind="stable")][:count]
