"""What the producers last made, fitted to today's log.

A producer may lag behind: it waits for texts, or only others were asked to run. What it made before still holds,
because users and items keep their numbers and the log only grows; whoever came later has no knowledge of it yet. A log
that was built anew may number them differently, so the ids are checked.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from models.contract.schema import FeatureSchema
from offline.data.catalogue import DataError
from offline.data.log import InteractionLog
from offline.knowledge.run import wanted
from offline.knowledge.vectors import ItemVectors, Knowledge, Produced, UserVectors


def load_knowledge(folder: Path, schema: FeatureSchema, log: InteractionLog) -> Knowledge:
    """Every producer's last knowledge, grown to the users and items of the log. Nothing of another log's, of another
    shape than the schema reads, damaged, or saved in another form: that is made again."""
    found = {}
    for name in wanted(schema):
        try:
            made = Produced.load(folder / name)
        except DataError:
            continue
        shape = {(space.key, space.rows, space.dim) for space in made.spaces}
        if shape != {(spec.key, spec.rows, spec.dim) for spec in schema.knowledge if spec.name == name}:
            continue
        if made.lineage is not None and made.lineage.fits(log):
            found[name] = grown(made, len(log.user_ids), len(log.item_ids))
    return Knowledge(found)


def grown(made: Produced, users: int, items: int) -> Produced:
    """The same knowledge for more users and items."""
    return replace(
        made,
        users=None if made.users is None else _with_users(made.users, users),
        items=None if made.items is None else _with_items(made.items, items),
        lineage=None,  # it named those before
    )


def _with_users(made: UserVectors, users: int) -> UserVectors:
    start = np.concatenate([made.start, np.full(users + 1 - len(made.start), made.start[-1])])
    return UserVectors(made.space, made.vectors, start, made.since, made.codes)


def _with_items(made: ItemVectors, items: int) -> ItemVectors:
    more = items - len(made.known)
    vectors = np.pad(made.vectors, ((0, 0), (0, more), (0, 0)))
    codes = None if made.codes is None else np.pad(made.codes, ((0, more), (0, 0)))
    return ItemVectors(made.space, vectors, np.pad(made.known, (0, more)), made.from_row, codes)
