"""The candidates of one request as rows of the item table: looked up and counted.

Knows arrays. Does not know where users, releases or scores come from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.contract.arrays import FloatArray, IntArray
from models.contract.items import ITEM_NUMERIC, ItemTable
from service.ranking.types import Described, KnowledgeCount, Release, UserState

_LIKED_RATE = ITEM_NUMERIC.index("liked_rate")


@dataclass(frozen=True, slots=True)
class Slate:
    """C distinct candidates. ``rows`` int64 [C] are rows of ``table``, 0 for items that it does not hold. Some of these
    may be ``described``: their positions [k], and their fields [k, S]."""

    ids: tuple[str, ...]
    rows: IntArray
    table: ItemTable
    described: tuple[IntArray, IntArray] | None

    @classmethod
    def gather(cls, release: Release, ids: tuple[str, ...], described: Described) -> Slate:
        """Look candidates up. Features of the request describe unknown items only: what the catalogue knows of an
        item was encoded as in training, what a caller sends was not checked by anybody."""
        rows = release.table.rows_of(ids)
        new = [at for at in np.flatnonzero(rows == 0).tolist() if ids[at] in described] if described else []
        if not new:
            return cls(ids, rows, release.table, None)
        encode = release.schema.encode_item_fields
        fields = np.asarray([encode(described[ids[at]]) for at in new], np.int64)
        return cls(ids, rows, release.table, (np.asarray(new, np.int64), fields))

    @property
    def unknown(self) -> int:
        """How many candidates the item table does not hold."""
        return len(self.rows) - int(np.count_nonzero(self.rows))

    def categorical(self) -> IntArray:
        """int64 [C, S]: encoded fields, those of described candidates among them."""
        found = self.table.categorical[self.rows]
        if self.described is not None:
            positions, fields = self.described
            found[positions] = fields
        return found

    def priors(self) -> FloatArray:
        """float32 [C]: each item's smoothed share of positive interactions, the order of last resort."""
        # The contract stores the rate on a scale of -1..1.
        rates: FloatArray = self.table.numeric[self.rows, _LIKED_RATE]
        return (rates + np.float32(1.0)) / np.float32(2.0)


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
