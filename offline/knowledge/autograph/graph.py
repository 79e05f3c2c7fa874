"""The graph that AutoGraph's messages travel on, as padded arrays of neighbours.

Nodes are user versions, items and latent factors. Every neighbourhood is capped, deterministic, and a function of the
log rows before one boundary: who asks for a neighbourhood says the boundary. Nothing here is random or learned.
An index -1 is padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.contract.arrays import BoolArray, Codes, FloatArray, IntArray
from offline.data.catalogue import DataError


@dataclass(frozen=True, slots=True)
class Versions:
    """Knowledge of users, version by version. ``vectors`` [V, width]; user u owns ``start[u] .. start[u + 1] - 1``,
    oldest first; ``closed_at`` [V] is the log row that made a version, visible to later rows only; ``known`` [V] is
    False where there is no text."""

    vectors: FloatArray
    start: IntArray
    closed_at: IntArray
    known: BoolArray

    def __post_init__(self) -> None:
        count = len(self.vectors)
        if len(self.closed_at) != count or len(self.known) != count or int(self.start[-1]) != count:
            raise DataError("versions: vectors, start, closed_at and known do not belong together")
        if (np.diff(self.closed_at)[np.diff(self.user) == 0] < 0).any():
            raise DataError("versions: a user's versions must be in the order of their closing")

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def user(self) -> IntArray:
        """[V]: whose version it is."""
        return np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that vectors may be made of. ``items`` [N, width] with ``known_items`` [N]; ``user``, ``item``,
    ``liked`` [n] are the log in arrival order."""

    items: FloatArray
    known_items: BoolArray
    versions: Versions
    user: npt.NDArray[np.integer]
    item: npt.NDArray[np.integer]
    liked: BoolArray

    def __post_init__(self) -> None:
        if not len(self.user) == len(self.item) == len(self.liked):
            raise DataError("the columns of the log differ in length")
        if len(self.items) != len(self.known_items):
            raise DataError("items and known_items differ in length")

    def before(self, row: int) -> Evidence:
        """Without whatever happened in log row ``row`` or later. Item texts have no time and stay."""
        old = self.versions.closed_at < row
        start = np.concatenate([[0], np.cumsum(old)])[self.versions.start]
        versions = Versions(
            self.versions.vectors[old], start.astype(np.int64), self.versions.closed_at[old], self.versions.known[old]
        )
        return Evidence(self.items, self.known_items, versions, self.user[:row], self.item[:row], self.liked[:row])


def boundaries(trained_rows: int, slices: int) -> IntArray:
    """First rows of ``slices`` equal parts of the training period, and of what follows it: [slices + 1]."""
    inside = np.arange(slices, dtype=np.int64) * trained_rows // slices
    return np.append(np.unique(inside), trained_rows).astype(np.int64)


def slice_of(rows: IntArray, from_row: IntArray) -> IntArray:
    """The slice that each log row sees: the last one that begins at or before it."""
    return np.searchsorted(from_row, rows, side="right") - 1


@dataclass(frozen=True, slots=True)
class SliceGraph:
    """``fans`` [N, K]: the user versions, as of the slice's boundary, of each item's newest likers; ``likes`` [N]."""

    fans: IntArray
    likes: IntArray


class Neighbours:
    """Neighbourhoods of one state of the evidence. Edges are liked interactions; a user's versions stand for it."""

    def __init__(self, evidence: Evidence, width: int) -> None:
        self._rows = np.flatnonzero(evidence.liked).astype(np.int64)
        self._item = evidence.item[self._rows].astype(np.int64)
        self._user = evidence.user[self._rows].astype(np.int64)
        self._span = len(evidence.user) + 1
        self._width = width
        self._items = len(evidence.items)
        order = np.argsort(self._user, kind="stable")
        self._likes = _Sequences(self._user[order] * self._span + self._rows[order], self._span)
        self._liked_items = self._item[order]
        known = np.flatnonzero(evidence.versions.known)
        self._version = known.astype(np.int64)
        owner, closed = evidence.versions.user[known], evidence.versions.closed_at[known]
        self._closings = _Sequences(owner * self._span + closed, self._span)
        self._closed_at = closed

    def visible_version(self, user: IntArray, row: IntArray) -> IntArray:
        """The newest version with a text that closed before each row, or -1."""
        closings = self._closings.before(user, row, 1)[:, 0]
        return np.where(closings >= 0, self._version[closings], -1) if len(self._version) else closings

    def recent_likes(self, user: IntArray, row: IntArray) -> IntArray:
        """Items [k, width] that each user liked last before each row, newest first."""
        likes = self._likes.before(user, row, self._width)
        return np.where(likes >= 0, self._liked_items[likes], -1) if len(self._liked_items) else likes

    def recent_users(self, boundary: int) -> tuple[IntArray, IntArray]:
        """Of every item: the users [N, width] who liked it last before ``boundary``, newest first; and how many likes
        [N] it has from before ``boundary``."""
        edges = slice(0, int(np.searchsorted(self._rows, boundary)))
        order = np.argsort(self._item[edges], kind="stable")
        counts = np.bincount(self._item[edges], minlength=self._items)
        ends = np.cumsum(counts)
        place = ends[:, None] - 1 - np.arange(self._width)
        inside = place >= (ends - counts)[:, None]
        users = self._user[edges][order]
        newest = users[np.where(inside, place, 0)] if len(users) else np.zeros_like(place)
        return np.where(inside, newest, -1), counts.astype(np.int64)

    def slice_graph(self, boundary: int, unknown: int) -> SliceGraph:
        """Edges of the log rows before ``boundary``; users without a version then are ``unknown``."""
        users, likes = self.recent_users(boundary)
        fans = np.full(users.shape, -1, np.int64)
        some = users >= 0
        versions = self.visible_version(users[some], np.full(int(some.sum()), boundary))
        fans[some] = np.where(versions >= 0, versions, unknown)
        return SliceGraph(fans, likes)

    def recent_versions(self, codes: Codes, nodes: int, boundary: int) -> IntArray:
        """Of every user factor: the versions [nodes, width] that closed last before ``boundary``, newest first.

        ``codes`` [V, levels]; the node of code c at level l is l * (nodes / levels) + c.
        """
        old = np.flatnonzero(self._closed_at < boundary)
        newest = self._version[old[np.argsort(-self._closed_at[old], kind="stable")]]
        factors = factor_nodes(codes[newest], nodes // max(1, codes.shape[1]))
        return _capped(factors, newest, nodes, self._width)


def nearest_items(codes: Codes, latent: FloatArray, codebooks: FloatArray, known: BoolArray, width: int) -> IntArray:
    """Of every item factor: its members [levels * size, width] nearest to the code, nearest first.

    ``codes`` [N, levels], ``latent`` [N, dim], ``codebooks`` [levels, size, dim]. Distance is measured where the code
    was chosen: on what the earlier levels left over.
    """
    levels, size, _ = codebooks.shape
    members = []
    residual = latent.astype(np.float64)
    for level in range(levels):
        residual = residual - codebooks[level][codes[:, level]]
        order = np.argsort((residual**2).sum(axis=1), kind="stable")
        order = order[known[order]].astype(np.int64)
        members.append(_capped(codes[order, level : level + 1].astype(np.int64), order, size, width))
    return np.concatenate(members)


def factor_nodes(codes: Codes, size: int) -> IntArray:
    """Codes [n, levels] -> factor nodes [n, levels], numbered level by level."""
    return codes.astype(np.int64) + np.arange(codes.shape[1]) * size


def _capped(groups: IntArray, members: IntArray, count: int, width: int) -> IntArray:
    """Members [n] in order of preference, each in all groups [n, g] of its row -> the first ``width`` of each group."""
    flat = groups.reshape(-1)
    order = np.argsort(flat, kind="stable")
    owner = np.repeat(members, groups.shape[1])[order]
    sizes = np.bincount(flat, minlength=count)
    first = np.cumsum(sizes) - sizes
    place = first[:, None] + np.arange(width)
    inside = np.arange(width) < sizes[:, None]
    owners = owner[np.where(inside, place, 0)] if len(owner) else np.zeros_like(place)
    return np.where(inside, owners, -1)


@dataclass(frozen=True, slots=True)
class _Sequences:
    """Rising keys owner * span + row: finds an owner's last entries before a row."""

    keys: IntArray
    span: int

    def before(self, owner: IntArray, row: IntArray, width: int) -> IntArray:
        """Positions [k, width] of the newest entries of each owner before each row, newest first, -1 for none."""
        base = owner.astype(np.int64) * self.span
        end = np.searchsorted(self.keys, base + np.clip(row, 0, self.span))
        start = np.searchsorted(self.keys, base)
        place = end[:, None] - 1 - np.arange(width)
        return np.where(place >= start[:, None], place, -1)
