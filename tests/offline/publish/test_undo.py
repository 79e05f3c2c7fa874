"""The undo journal by itself: what it keeps, in which order it gives it back, and what a killed process leaves."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from offline.publish.connection import Store, StoreError
from offline.publish.undo import JOURNAL_FILE, PUBLICATIONS_STORED, Change, Journal, JournalError, installation
from tests.offline.publish.conftest import sibling

SPACES = {"user/liber": "0123456789abcdef"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "work" / JOURNAL_FILE


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal(path) as opened:
        yield opened


def change(key: str, old: str | None, new: str) -> Change:
    """Contents are their own digests."""
    before = None if old is None else old.encode()
    return Change(key, before, before, new.encode())


def note(journal: Journal, store: Store, *changes: Change, complete: bool = True, producer: str = "liber") -> None:
    publication = journal.publication(store, producer, SPACES)
    publication.note(changes)
    if complete:
        publication.close()


def newest(journal: Journal, store: Store, producer: str = "liber") -> list[tuple[str, bytes | None, bytes]] | None:
    number = journal.to_undo(store, producer, SPACES)
    return None if number is None else [change for chunk in journal.changes(number) for change in chunk]


def undo(journal: Journal, store: Store) -> None:
    number = journal.to_undo(store, "liber", SPACES)
    assert number is not None
    journal.begin_undo(number)
    journal.undone(number)


def test_changes_come_back_and_survive_the_process(store: Store, path: Path) -> None:
    with Journal(path) as journal:
        note(journal, store, change("b", "1", "2"), change("a", None, "3"))
    with Journal(path) as journal:
        assert newest(journal, store) == [("a", None, b"3"), ("b", b"1", b"2")]


def test_a_publication_that_changes_nothing_leaves_nothing(store: Store, journal: Journal) -> None:
    note(journal, store, change("a", None, "1"))
    note(journal, store)
    assert newest(journal, store) == [("a", None, b"1")]


def test_publications_are_taken_back_one_by_one(store: Store, journal: Journal) -> None:
    for number in range(1, 4):
        note(journal, store, change("a", str(number - 1), str(number)))
    for number in (3, 2, 1):
        assert newest(journal, store) == [("a", str(number - 1).encode(), str(number).encode())]
        undo(journal, store)
    assert newest(journal, store) is None


def test_only_the_newest_are_kept(store: Store, journal: Journal, path: Path) -> None:
    note(journal, store, change("a", "x", "y"), producer="marc")
    for number in range(PUBLICATIONS_STORED + 2):
        note(journal, store, change("a", str(number), str(number + 1)))
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM records").fetchone() == (PUBLICATIONS_STORED + 1,)
    connection.close()
    for _ in range(PUBLICATIONS_STORED):
        undo(journal, store)
    assert newest(journal, store) is None
    assert newest(journal, store, "marc") is not None


def test_a_killed_publication_goes_on_and_keeps_what_was_there_before_it(store: Store, path: Path) -> None:
    with Journal(path) as journal:
        first = [change("a", "0", "1"), change("b", "0", "1"), change("c", "0", "1"), change("d", None, "1")]
        note(journal, store, *first, complete=False)
    with Journal(path) as journal:
        # Of what was noted, "a" was written; "b" was not; "c" somebody else wrote; "d" was written. All change again.
        again = [change("a", "1", "2"), change("b", "0", "2"), change("c", "x", "2"), change("d", "1", "2")]
        note(journal, store, *again, change("e", None, "2"))
        assert newest(journal, store) == [
            ("a", b"0", b"2"), ("b", b"0", b"2"), ("c", b"x", b"2"), ("d", None, b"2"), ("e", None, b"2"),
        ]  # fmt: skip
        undo(journal, store)
        assert newest(journal, store) is None


def test_a_killed_publication_can_be_taken_back(store: Store, journal: Journal) -> None:
    note(journal, store, change("a", "0", "1"), complete=False)
    assert newest(journal, store) == [("a", b"0", b"1")]
    undo(journal, store)
    note(journal, store, change("b", "0", "1"))
    assert newest(journal, store) == [("b", b"0", b"1")]


def test_a_killed_rollback_comes_first(store: Store, journal: Journal) -> None:
    note(journal, store, change("a", "0", "1"))
    note(journal, store, change("a", "1", "2"))
    number = journal.to_undo(store, "liber", SPACES)
    assert number is not None
    journal.begin_undo(number)
    assert journal.to_undo(store, "liber", SPACES) == number
    journal.undone(number)
    assert newest(journal, store) == [("a", b"0", b"1")]


def test_a_killed_rollback_is_given_up_by_the_next_publication(store: Store, journal: Journal) -> None:
    note(journal, store, change("a", "0", "1"))
    number = journal.to_undo(store, "liber", SPACES)
    assert number is not None
    journal.begin_undo(number)
    note(journal, store)
    assert newest(journal, store) is None


def test_a_chunk_is_noted_as_a_whole_or_not_at_all(store: Store, journal: Journal) -> None:
    publication = journal.publication(store, "liber", SPACES)
    with pytest.raises(JournalError, match="cannot be used"):
        publication.note([change("a", "0", "1"), Change("b", None, None, None)])  # type: ignore[arg-type]
    publication.close()
    assert newest(journal, store) is None
    note(journal, store, change("a", "0", "1"))
    assert newest(journal, store) == [("a", b"0", b"1")]


def test_thousands_of_changes_come_back_once_each(store: Store, journal: Journal) -> None:
    note(journal, store, *(change(f"key {at}", None, str(at)) for at in range(2500)))
    changes = newest(journal, store)
    assert changes is not None
    assert {key: new for key, _, new in changes} == {f"key {at}": str(at).encode() for at in range(2500)}
    assert len(changes) == 2500


def test_producers_spaces_and_installations_do_not_mix(store: Store, journal: Journal) -> None:
    note(journal, store, change("a", "0", "1"))
    assert newest(journal, store, "marc") is None
    assert journal.to_undo(store, "liber", {"user/liber": "f" * 16}) is None
    assert newest(journal, sibling(store, "other")) is None
    assert installation(store) == installation(store) != installation(sibling(store, "other"))
    store.redis.delete(store.keys.installation)  # as after a wipe
    assert newest(journal, store) is None


def test_a_file_that_is_no_journal_is_refused(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(JournalError, match=rf"{path.name}: the undo journal cannot be used"):
        Journal(path)
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=9")
    connection.close()
    with pytest.raises(StoreError, match="written by version 9, this program reads version 1"):
        Journal(path)
