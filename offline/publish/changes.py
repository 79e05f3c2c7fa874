"""The stream of changes: which items' records are about to be written, for services that have their item table already.

See ``models.contract.snapshot`` for its entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.contract.snapshot import change
from offline.publish.connection import Store

LONGEST_CHANGE = 50_000
"""Changed items beyond which a new snapshot is written: a service reads and decodes so many in about a second."""

_ENTRIES = 10_000
"""Length of the stream: what is older is in some snapshot, or is read with all other items."""


def append(store: Store, of: str, ids: Sequence[str] | None = ()) -> str:
    """Append an entry (no ids: a mark; None: any item); its id, which holds the time: after Redis lost its last writes,
    ids that a service has seen do not come back."""
    entry: Any = store.redis.xadd(store.keys.changes, change(of, ids), maxlen=_ENTRIES, approximate=True)
    return str(entry.decode())


class ItemChanges:
    """Names items whose records in a space, or of a release's features, are about to be written. Beyond
    ``LONGEST_CHANGE`` of them it says that any item may have changed: there will be a new snapshot anyway."""

    def __init__(self, store: Store, of: str) -> None:
        self._store = store
        self._of = of
        self._count = 0

    def about_to_write(self, ids: Sequence[str]) -> None:
        """Call before the records of these items are written."""
        if not ids or self._count > LONGEST_CHANGE:
            return
        self._count += len(ids)
        append(self._store, self._of, None if self._count > LONGEST_CHANGE else ids)
