"""The candidates of one request as rows of the item table: gathered and counted.

Knows arrays and the contract's encoder. Does not know where users, releases or scores come from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.contract.encoding import ItemBatch
from models.contract.items import ITEM_NUMERIC, IntArray
from models.contract.knowledge import FloatArray
from service.ranking.types import Described, KnowledgeCount, Release, UserState

_LIKED_RATE = ITEM_NUMERIC.index("liked_rate")


@dataclass(frozen=True, slots=True)
class Slate:
    """C distinct candidates. ``rows`` int64 [C] are item-table rows, 0 for items that the table does not hold."""

    ids: tuple[str, ...]
    rows: IntArray
    items: ItemBatch

    @classmethod
    def gather(cls, release: Release, ids: tuple[str, ...], described: Described) -> Slate:
        """Look candidates up. Features of the request describe unknown items only: what the catalogue knows of an
        item was encoded as in training, what a caller sends was not checked by anybody."""
        rows = release.table.rows_of(ids)
        items = ItemBatch.gather(release.table, rows)
        new = [at for at in np.flatnonzero(rows == 0).tolist() if ids[at] in described] if described else []
        if new:
            encode = release.schema.encode_item_fields
            fields = np.asarray([encode(described[ids[at]]) for at in new], np.int64)
            items = items.with_categorical(np.asarray(new, np.int64), fields)
        return cls(ids, rows, items)

    @property
    def unknown(self) -> int:
        """How many candidates the item table does not hold."""
        return int(np.count_nonzero(self.rows == 0))

    def priors(self) -> FloatArray:
        """float32 [C]: each item's smoothed share of positive interactions, the order of last resort."""
        # The contract stores the rate on a scale of -1..1.
        return (self.items.numeric[:, _LIKED_RATE] + np.float32(1.0)) / np.float32(2.0)


def count_knowledge(release: Release, slate: Slate, user: UserState, now: float) -> KnowledgeCount:
    """Fresh, stale and missing records among those consulted: in every space of the release, the user's or each
    candidate's. A record is missing whatever the reason: refused, not yet made, or nothing to make it from."""
    expires = release.table.expires_at[slate.rows]
    missing = int(np.count_nonzero(expires == 0))
    fresh = int(np.count_nonzero(expires > now))
    stale = expires.size - fresh - missing
    for space in release.user_spaces:
        record = user.knowledge.get(space.fingerprint)
        if record is None:
            missing += 1
        elif record.is_fresh(now):
            fresh += 1
        else:
            stale += 1
    return KnowledgeCount(fresh, stale, missing)
