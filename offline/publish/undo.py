"""The undo journal: the bytes of knowledge records before each publication of a producer, in one SQLite file.

What a chunk is about to overwrite is on the disk (synchronous=FULL, one transaction) before anything of it is written
to Redis. So a publication that was killed can be rolled back as well as one that finished, and one that is run again
goes on in its own journal. The newest three publications of a producer are kept. Knows bytes; not what is in them.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline.publish.connection import Store, StoreError

JOURNAL_FILE = "undo.sqlite"
"""Inside a work folder."""

PUBLICATIONS_STORED = 3
_VERSION = 1
_BUSY_SECONDS = 60.0
_PAGE = 1000

_SCHEMA = (
    """CREATE TABLE publications (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    whose TEXT NOT NULL,
    spaces TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'done', 'undoing'))
)""",
    """CREATE TABLE records (
    publication INTEGER NOT NULL REFERENCES publications (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    old BLOB,
    new BLOB NOT NULL,
    PRIMARY KEY (publication, key)
)""",
)

# A publication that was killed and run again finds its own work in Redis; what was there before that is still the old.
_NOTE = """
INSERT INTO records VALUES (?1, ?2, ?3, ?5) ON CONFLICT (publication, key) DO UPDATE
SET old = CASE WHEN new = ?4 THEN old ELSE excluded.old END, new = excluded.new
"""

_DROP_ALL_BUT_THE_NEWEST = """
DELETE FROM publications WHERE whose = :whose AND id NOT IN (
    SELECT id FROM publications WHERE whose = :whose ORDER BY id DESC LIMIT :newest
)
"""


class JournalError(StoreError):
    """The undo journal is damaged, of another version, or cannot be written."""


@dataclass(frozen=True, slots=True)
class Change:
    """One record: its key, its bytes before (None: there was none), and digests of what it said and says."""

    key: str
    old: bytes | None
    replaced: bytes | None
    new: bytes


def installation(store: Store) -> str:
    """The random name of what lies under the store's prefix; made once."""
    store.redis.set(store.keys.installation, secrets.token_hex(8), nx=True)
    name: Any = store.redis.get(store.keys.installation)
    return str(name.decode())


class Journal:
    """The journal of one work folder. JournalError if the file is not usable."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._reported():
            self._connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def publication(self, store: Store, producer: str, spaces: Mapping[str, str]) -> Publication:
        """Where the changes of a producer go now: into its publication that was killed, or into a new one.

        A rollback that was killed is given up: its producer publishes again.
        """
        place = _place(store, producer, spaces)
        with self.transaction() as connection:
            connection.execute("DELETE FROM publications WHERE whose = :whose AND state = 'undoing'", place)
            connection.execute(
                "UPDATE publications SET state = 'done' WHERE whose = :whose AND state = 'open' AND spaces != :spaces",
                place,
            )
            row = connection.execute(
                "SELECT id FROM publications WHERE whose = :whose AND state = 'open'", place
            ).fetchone()
        return Publication(self, place, None if row is None else int(row[0]))

    def to_undo(self, store: Store, producer: str, spaces: Mapping[str, str]) -> int | None:
        """The publication whose rollback was killed, or the producer's newest one in these spaces."""
        query = (
            "SELECT id FROM publications WHERE whose = :whose AND spaces = :spaces "
            "ORDER BY state = 'undoing' DESC, id DESC LIMIT 1"
        )
        with self._reported():
            row = self._connection.execute(query, _place(store, producer, spaces)).fetchone()
        return None if row is None else int(row[0])

    def begin_undo(self, publication: int) -> None:
        """From now on ``to_undo`` answers with this one, until ``undone``."""
        with self.transaction() as connection:
            connection.execute("UPDATE publications SET state = 'undoing' WHERE id = :id", {"id": publication})

    def undone(self, publication: int) -> None:
        """Forget a publication that is rolled back."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM publications WHERE id = :id", {"id": publication})

    def changes(self, publication: int) -> Iterator[list[tuple[str, bytes | None, bytes]]]:
        """Chunks of (key, bytes before, digest of what was written)."""
        query = "SELECT key, old, new FROM records WHERE publication = ? ORDER BY key"
        with self._reported():
            cursor = self._connection.execute(query, (publication,))
            while page := cursor.fetchmany(_PAGE):
                yield page

    def journaled_keys(self) -> list[str]:
        """Keys of all records of all publications."""
        with self._reported():
            return [key for (key,) in self._connection.execute("SELECT DISTINCT key FROM records").fetchall()]

    def records(self, key: str) -> list[tuple[int, bytes | None]]:
        """(publication, bytes before it) of all records under a key."""
        query = "SELECT publication, old FROM records WHERE key = ? ORDER BY publication"
        with self._reported():
            return self._connection.execute(query, (key,)).fetchall()

    def remove(self, keys: Sequence[str]) -> None:
        """Remove all records under these keys, and their bytes from the file."""
        with self.transaction() as connection:
            connection.executemany("DELETE FROM records WHERE key = ?", [(key,) for key in keys])
        with self._reported():
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _prepare(self) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
        if version not in (0, _VERSION):
            raise JournalError(f"{self._path}: written by version {version}, this program reads version {_VERSION}")
        if version == 0:
            with self.transaction() as connection:
                for statement in _SCHEMA:
                    connection.execute(statement, {})
                connection.execute(f"PRAGMA user_version={_VERSION}", {})

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Statements that happen together or not at all; IMMEDIATE: an upgrade of a read lock could fail."""
        with self._reported():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise JournalError(f"{self._path}: the undo journal cannot be used: {error}") from error


class Publication:
    """The changes of one producer in one publication. Nothing is stored of one that changes nothing."""

    def __init__(self, journal: Journal, place: Mapping[str, str], number: int | None) -> None:
        self._journal, self._place, self._number = journal, place, number

    def note(self, changes: Sequence[Change]) -> None:
        """Before these changes are written to Redis: on the disk when this returns."""
        if not changes:
            return
        with self._journal.transaction() as connection:
            if self._number is None:
                into = "INSERT INTO publications (whose, spaces, state) VALUES (:whose, :spaces, 'open')"
                self._number = connection.execute(into, self._place).lastrowid
            rows = ((self._number, change.key, change.old, change.replaced, change.new) for change in changes)
            connection.executemany(_NOTE, rows)

    def close(self) -> None:
        """After the last change; older publications of the producer than the newest ``PUBLICATIONS_STORED`` go."""
        if self._number is None:
            return
        with self._journal.transaction() as connection:
            connection.execute("UPDATE publications SET state = 'done' WHERE id = :id", {"id": self._number})
            connection.execute(_DROP_ALL_BUT_THE_NEWEST, {**self._place, "newest": PUBLICATIONS_STORED})


def _place(store: Store, producer: str, spaces: Mapping[str, str]) -> dict[str, str]:
    """The columns by which a publication is found again: installation and producer, and the spaces that it wrote."""
    return {"whose": f"{installation(store)} {producer}", "spaces": json.dumps(dict(spaces), sort_keys=True)}
