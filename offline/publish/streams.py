"""Interactions and exposures that the service wrote for the offline jobs, as Redis streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from models.contract.events import Interaction
from models.contract.exposures import Exposure
from offline.publish.connection import Store

PAGE = 5000


def new_interactions(store: Store, mark: str) -> tuple[list[Interaction], str, int]:
    """(interactions after the stream entry ``mark``, the last entry's id, how many entries were not understood)."""
    interactions: list[Interaction] = []
    refused = 0
    for entry, fields in entries(store, store.keys.interactions, mark):
        mark = entry
        try:
            interactions.append(Interaction.from_stream(fields))
        except ValueError:
            refused += 1  # counted and reported; one bad entry must not stop a refresh
    return interactions, mark, refused


def installation_of(store: Store) -> str:
    """The installation whose streams these are; "" before its first publication."""
    name: Any = store.redis.get(store.keys.installation)
    return name.decode() if name else ""


def exposures(store: Store) -> list[Exposure]:
    """All exposures that the capped stream still holds and this version understands, oldest first."""
    understood = []
    for _, fields in entries(store, store.keys.exposures, "0-0"):
        with suppress(ValueError):  # of another version
            understood.append(Exposure.from_stream(fields))
    return understood


def trim_stream(store: Store, stream: str, first_ms: int) -> int:
    """Remove the entries of a stream that were added before a time; how many."""
    removed: Any = store.redis.xtrim(stream, minid=f"{first_ms}-0", approximate=False)
    return int(removed)


def entries(store: Store, stream: str, after: str) -> Iterator[tuple[str, dict[Any, Any]]]:
    """(id, fields) of the entries of a stream after the entry ``after``, in order."""
    while True:
        page: Any = store.redis.xrange(stream, min=f"({after}", count=PAGE)
        for entry, fields in page:
            after = entry.decode()
            yield after, fields
        if len(page) < PAGE:
            return
