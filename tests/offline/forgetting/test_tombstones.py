"""What jobs know of tombstones: whose are to be carried out, and files that are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.contract.forgetting import Tombstone, Tombstones, TombstoneTable, new_salt, user_digest
from offline.data.catalogue import Catalogue, DataError
from offline.publish.tombstones import TOMBSTONES_FILE, Door, ForgottenUsers

SALT = new_salt()


def tombstones(salt: str, **of: Tombstone) -> Tombstones:
    return Tombstones(salt, 1, TombstoneTable((user_digest(salt, name), entry) for name, entry in of.items()))


def test_a_tombstone_is_pending_until_it_is_carried_out() -> None:
    forgotten = ForgottenUsers().united(tombstones(SALT, u=Tombstone(forgotten_ms=5)))
    assert forgotten.has_pending
    assert forgotten.blocks("u")
    assert not forgotten.blocks("v")
    done = forgotten.all_done()
    assert not done.has_pending
    assert not done.blocks("u")
    again = done.united(tombstones(SALT, u=Tombstone(forgotten_ms=9)))
    assert again.pending("u") == Tombstone(forgotten_ms=9)
    assert done.united(tombstones(SALT, u=Tombstone(forgotten_ms=3))).of("u") == Tombstone(forgotten_ms=5)


def test_who_opted_out_is_never_published() -> None:
    forgotten = ForgottenUsers().united(tombstones(SALT, u=Tombstone(forgotten_ms=5, opted_out=True)))
    assert forgotten.all_done().blocks("u")


def test_a_tombstone_of_a_former_salt_counts_beside_a_newer_one() -> None:
    other = new_salt()
    forgotten = ForgottenUsers().united(tombstones(SALT, u=Tombstone(forgotten_ms=5))).all_done()
    both = forgotten.united(tombstones(other, u=Tombstone(forgotten_ms=9), v=Tombstone(forgotten_ms=1)))
    assert both.of("u") == Tombstone(forgotten_ms=9)
    assert both.pending("u") is not None
    assert forgotten.united(tombstones(other, v=Tombstone(forgotten_ms=1))).of("u") == Tombstone(forgotten_ms=5)


def test_a_door_counts_what_it_refuses() -> None:
    door = Door(ForgottenUsers().united(tombstones(SALT, u=Tombstone(forgotten_ms=5))))
    assert [door("u", 5), door("u", 6), door("v", 0)] == [True, False, False]
    assert door.refused == 1


def test_profiles_of_forgotten_users_are_left_out() -> None:
    forgotten = ForgottenUsers().united(tombstones(SALT, u=Tombstone(forgotten_ms=5)))
    assert list(forgotten.without(Catalogue({"u": {}, "v": {}}, {"i": {}})).users) == ["v"]


def test_the_file_comes_back(tmp_path: Path) -> None:
    forgotten = ForgottenUsers().united(tombstones(SALT, u=Tombstone(forgotten_ms=5))).all_done()
    forgotten.save(tmp_path)
    assert b'"u"' not in (tmp_path / TOMBSTONES_FILE).read_bytes()
    loaded = ForgottenUsers.load(tmp_path)
    assert (loaded.of("u"), loaded.done) == (forgotten.of("u"), forgotten.done)


@pytest.mark.parametrize("content", ["{", "[]", '{"salts": [{}], "done": {}}', '{"salts": [], "done": {"a": "b"}}',
                                     '{"salts": [{"salt": "0a", "tombstones": {}}], "done": {}}'])  # fmt: skip
def test_a_damaged_file_stops_the_job(tmp_path: Path, content: str) -> None:
    """Who was forgotten must not come back because of it."""
    (tmp_path / TOMBSTONES_FILE).write_text(content)
    with pytest.raises(DataError, match=TOMBSTONES_FILE):
        ForgottenUsers.load(tmp_path)
