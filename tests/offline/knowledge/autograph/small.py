"""A small seeded world for the AutoGraph tests: every user likes the films of one genre, and texts say the genre."""

from __future__ import annotations

import numpy as np

from models.contract.arrays import FloatArray, IntArray
from offline.knowledge.autograph.graph import Evidence, Versions
from offline.knowledge.config import FittingConfig, FrozenPartsConfig, NetworkConfig, QuantiserConfig

WIDTH, GENRES, PARTITION = 16, 4, 6
USERS, ITEMS, EVENTS = 60, 48, 24
TRAINED = USERS * EVENTS * 4 // 5

CONFIG = FrozenPartsConfig(
    user_factors=QuantiserConfig(size=12, hidden=16, dim=8, steps=60, batch=64, kmeans_iterations=5),
    item_factors=QuantiserConfig(size=10, hidden=16, dim=8, steps=60, batch=64, kmeans_iterations=5),
    network=NetworkConfig(hidden=8, dim=8, neighbours=4, members=4, history=4, slices=4),
    fitting=FittingConfig(epochs=3, batch=128, learning_rate=1e-2, fresh=0.5),
)


def texts_like(genre: IntArray, generator: np.random.Generator) -> FloatArray:
    """Unit vectors [n, WIDTH] around one direction per genre."""
    vectors = np.eye(GENRES, WIDTH)[genre] * 2.0 + generator.normal(size=(len(genre), WIDTH)) * 0.3
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def world(seed: int = 0, *, events: int = EVENTS) -> Evidence:
    """``events`` interactions of each user, in one shuffled stream; a version closes with every sixth of a user."""
    generator = np.random.default_rng(seed)
    user = generator.permutation(np.repeat(np.arange(USERS), events))
    item = generator.integers(ITEMS, size=len(user))
    liked = np.where(user % GENRES == item % GENRES, 0.9, 0.15) > generator.random(len(user))
    known = np.ones(ITEMS, np.bool_)
    known[-2:] = False
    items = texts_like(np.arange(ITEMS) % GENRES, generator)
    return Evidence(items, known, versions_of(user, generator), user, item, liked)


def versions_of(user: IntArray, generator: np.random.Generator) -> Versions:
    closed_at, counts = [], []
    for number in range(USERS):
        rows = np.flatnonzero(user == number)
        closed_at.append(rows[PARTITION - 1 :: PARTITION])
        counts.append(len(closed_at[-1]))
    start = np.concatenate([[0], np.cumsum(counts)])
    genre = np.repeat(np.arange(USERS) % GENRES, counts)
    known = np.ones(len(genre), np.bool_)
    known[5] = False
    return Versions(texts_like(genre, generator), start, np.concatenate(closed_at), known)


def altered(evidence: Evidence, row: int, seed: int = 9) -> Evidence:
    """The same until log row ``row``; from there on other users, items, likes, and other texts of later versions."""
    generator = np.random.default_rng(seed)
    versions, later = evidence.versions, evidence.versions.closed_at >= row
    vectors, known = versions.vectors.copy(), versions.known.copy()
    user, item, liked = evidence.user.copy(), evidence.item.copy(), evidence.liked.copy()
    vectors[later] = texts_like(generator.integers(GENRES, size=int(later.sum())), generator)
    user[row:] = generator.integers(USERS, size=len(user) - row)
    item[row:] = generator.integers(ITEMS, size=len(user) - row)
    liked[row:] = ~liked[row:]
    known[later] = generator.random(int(later.sum())) < 0.8
    other = Versions(vectors, versions.start, versions.closed_at, known)
    return Evidence(evidence.items, evidence.known_items, other, user, item, liked)
