"""Codes that are published of a user and of an item, read from vectors one at a time."""

from __future__ import annotations

from offline.knowledge.vectors import ItemVectors, UserVectors


def user_codes(vectors: UserVectors, user: int) -> tuple[int, ...]:
    """Codes of a user's newest version; () without codes and without a version."""
    if vectors.codes is None or vectors.start[user] == vectors.start[user + 1]:
        return ()
    return tuple(vectors.codes[vectors.start[user + 1] - 1].tolist())


def item_codes(vectors: ItemVectors, item: int) -> tuple[int, ...]:
    """Codes of an item; () without codes."""
    return () if vectors.codes is None else tuple(vectors.codes[item].tolist())
