"""What the producers last made, fitted to today's log.

A producer may lag behind: it waits for texts, or only others were asked to run. What it made before still holds,
because users and items keep their numbers and the log only grows; whoever came later has no knowledge of it yet. A log
that was built anew may number them differently, so the ids are checked.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.contract.schema import FeatureSchema, fingerprint
from offline.data.catalogue import DataError
from offline.data.files import read_json, write_json
from offline.data.log import InteractionLog
from offline.knowledge.run import load
from offline.knowledge.vectors import ItemVectors, Knowledge, Produced, UserVectors

_IDS = "ids.json"


def about_to_produce(folder: Path, log: InteractionLog) -> None:
    """Note in a producer's folder whose numbers its next result will use. Said before, and the last one is kept, so
    that a kill at any moment leaves a note that fits what lies there."""
    now = _lineage(log, len(log.user_ids), len(log.item_ids))
    if now not in (notes := _notes(folder)):
        write_json(folder / _IDS, [*notes, now][-2:])


def held(folder: Path, schema: FeatureSchema, log: InteractionLog) -> Knowledge:
    """Every producer's last knowledge, grown to the users and items of the log. Nothing of another log's, or of another
    shape than the schema reads."""
    found = {}
    for name, made in load(folder, schema).produced.items():
        users = None if made.users is None else len(made.users.start) - 1
        items = None if made.items is None else len(made.items.known)
        shape = {(space.key, space.rows, space.dim) for space in made.spaces}
        if shape != {(spec.key, spec.rows, spec.dim) for spec in schema.knowledge if spec.name == name}:
            continue
        if any(_fits(note, log, users, items) for note in _notes(folder / name)):
            found[name] = grown(made, len(log.user_ids), len(log.item_ids))
    return Knowledge(found)


def grown(made: Produced, users: int, items: int) -> Produced:
    """The same knowledge for more users and items."""
    return Produced(
        None if made.users is None else _with_users(made.users, users),
        None if made.items is None else _with_items(made.items, items),
        made.texts,
    )


def _with_users(made: UserVectors, users: int) -> UserVectors:
    start = np.concatenate([made.start, np.full(users + 1 - len(made.start), made.start[-1])])
    return UserVectors(made.space, made.vectors, start, made.since, made.codes)


def _with_items(made: ItemVectors, items: int) -> ItemVectors:
    more = items - len(made.known)
    vectors = np.pad(made.vectors, ((0, 0), (0, more), (0, 0)))
    codes = None if made.codes is None else np.pad(made.codes, ((0, more), (0, 0)))
    return ItemVectors(made.space, vectors, np.pad(made.known, (0, more)), made.from_row, codes)


def _notes(folder: Path) -> list[dict[str, object]]:
    try:
        return list(read_json(folder / _IDS))
    except DataError:
        return []


def _lineage(log: InteractionLog, users: int, items: int) -> dict[str, object]:
    return {
        "users": users,
        "items": items,
        "user_ids": fingerprint(log.user_ids[:users]),
        "item_ids": fingerprint(log.item_ids[:items]),
    }


def _fits(note: dict[str, object], log: InteractionLog, users: int | None, items: int | None) -> bool:
    noted_users, noted_items = int(str(note["users"])), int(str(note["items"]))
    if (users is not None and users != noted_users) or (items is not None and items != noted_items):
        return False
    return note == _lineage(log, noted_users, noted_items)
