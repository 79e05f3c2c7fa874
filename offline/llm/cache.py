"""Content-addressed store of LLM answers: what was paid once is never paid again.

Holds keys, answers and token counts. It never holds the prompt: prompts quote data sets (MovieLens) that may not be
redistributed, while an exported cache is meant to be. Beside the answers lie the accounts of runs that have not ended
(account.py), because only the transaction that stores answers can say exactly how many were stored, the keys that
were refused, with the runs in which they were, and the marks of the users whom answers are about. Several processes may
use one file on a local disk.
"""

import gzip
import hashlib
import io
import json
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from offline.data.files import write_bytes
from offline.llm.protocol import Completion, Prompt
from offline.store import OwnerTable

_VERSION = 1
_FORMER_PRECISIONS = ("bfloat16", "float32")
_KEYS_PER_QUERY = 500  # below SQLite's oldest limit of 999 bound values
_BUSY_SECONDS = 60.0  # another process commits in milliseconds; only a hung one reaches this

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY,
    text TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    created_at REAL NOT NULL
) WITHOUT ROWID
"""
# No new version: a program that does not know these tables can use the file and never looks at them.
_LATER_SCHEMAS = (
    "CREATE TABLE IF NOT EXISTS runs (run_id TEXT PRIMARY KEY, account TEXT NOT NULL) WITHOUT ROWID",
    # not what the server said: it may quote the prompt
    "CREATE TABLE IF NOT EXISTS refusals (key TEXT, run_id TEXT, PRIMARY KEY (key, run_id)) WITHOUT ROWID",
    # keys whose answers were removed with their owner, and that no exported file brings back
    "CREATE TABLE IF NOT EXISTS removed (key TEXT PRIMARY KEY) WITHOUT ROWID",
)


class CacheError(Exception):
    """A cache database or an exported file is damaged or of another version; the message names file and line."""


def cache_key(model_id: str, prompt: Prompt) -> str:
    """Return the address of an answer: sha256 over the canonical JSON of model, messages and parameters."""
    content: dict[str, Any] = {
        "model_id": model_id,
        "messages": [[role, text] for role, text in prompt.messages],
        "max_tokens": prompt.max_tokens,
        # float() makes 0 and 0.0 the same question
        "temperature": float(prompt.temperature),
        "repetition_penalty": float(prompt.repetition_penalty),
    }
    if prompt.choices:  # others keep the addresses that they had before there were any
        content["choices"] = list(prompt.choices)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def stored_answers(cache: "ResponseCache", model_id: str, prompts: Mapping[str, Prompt]) -> dict[str, Completion]:
    """The stored answers to `prompts`, by the keys that `prompts` has them under, which are those of `cache_key`.

    Until 2026-11-29 the id of a local model ended in an arithmetic; an answer under such a key is as good.
    """
    answers = cache.get_many(list(prompts))
    for precision in _FORMER_PRECISIONS:
        former = {
            cache_key(f"{model_id}/{precision}", prompt): key for key, prompt in prompts.items() if key not in answers
        }
        answers |= {former[key]: answer for key, answer in cache.get_many(list(former)).items()}
    return answers


def former_keys(model_id: str, prompt: Prompt) -> list[str]:
    """The address of an answer, and those that it had until 2026-11-29."""
    return [cache_key(name, prompt) for name in (model_id, *(f"{model_id}/{end}" for end in _FORMER_PRECISIONS))]


class ResponseCache:
    """Answers by key in one SQLite file; usable from any thread.

    `put_many` returns only after the answers are on the disk (synchronous=FULL), so they survive kill -9 and a power
    cut. Raises CacheError when the file is not a response cache, and when it cannot be read or written (a full disk).
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise
        except sqlite3.DatabaseError as error:
            raise CacheError(f"{path}: not a usable response cache: {error}") from error

    def __enter__(self) -> "ResponseCache":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        with self._database():
            self._connection.close()

    def get_many(self, keys: Sequence[str]) -> dict[str, Completion]:
        """Return the known answers among `keys`; unknown keys are absent."""
        query = "SELECT key, text, prompt_tokens, completion_tokens FROM answers WHERE key IN ({marks})"
        return {key: Completion(*answer) for key, *answer in self._select(query, keys)}

    def put_many(self, answers: Mapping[str, Completion], account: tuple[str, str] | None = None) -> None:
        """Store answers in one transaction, replacing those already there (a rerun without cache renews them).

        `account` is a run's id and its account so far, stored in the same transaction.
        """
        self._insert("REPLACE", answers.items(), account)

    def put_refusals(self, keys: Iterable[str], run_id: str) -> None:
        """Remember that these prompts were refused in a run; a run counts once."""
        rows = [(key, run_id) for key in keys]
        with self._database(), self._transaction():
            self._connection.executemany("INSERT OR IGNORE INTO refusals VALUES (?, ?)", rows)

    def refused(self, keys: Sequence[str], runs: int) -> set[str]:
        """The subset of `keys` whose prompts were refused in at least `runs` runs."""
        query = "SELECT key FROM refusals WHERE key IN ({marks}) GROUP BY key HAVING count(*) >= ?"
        return {key for (key,) in self._select(query, keys, runs)}

    def note_owners(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Note (key, owner) pairs: whom an answer is about that is stored, or about to be."""
        rows = list(pairs)
        if rows:
            with self._database(), self._transaction():
                self._owners.note(rows)

    def remove_owner(self, owner: str) -> int:
        """Remove the answers about a user and nobody else, for good: from the file's bytes too, once ``compact`` ends.
        How many there were."""
        with self._database(), self._transaction():
            keys = [(key,) for key in self._owners.remove(owner)]
            before = self._connection.total_changes
            self._connection.executemany("DELETE FROM answers WHERE key = ?", keys)
            count = self._connection.total_changes - before
            self._connection.executemany("DELETE FROM refusals WHERE key = ?", keys)
            self._connection.executemany("INSERT OR IGNORE INTO removed VALUES (?)", keys)
        return count

    def owned(self, owner: str) -> list[dict[str, Any]]:
        """What is stored of prompts about a user, also beside others, by their keys: the answer, None without one, and
        the number of runs in which it was refused."""
        query = (
            "SELECT owners.key, text, prompt_tokens, completion_tokens, created_at, "
            "(SELECT count(*) FROM refusals WHERE refusals.key = owners.key) "
            "FROM owners LEFT JOIN answers ON answers.key = owners.key WHERE owner = ? ORDER BY owners.key"
        )
        names = ("key", "text", "prompt_tokens", "completion_tokens", "created_at", "refusals")
        with self._database():
            return [dict(zip(names, row, strict=True)) for row in self._connection.execute(query, (owner,)).fetchall()]

    def compact(self) -> None:
        """Write the file anew, without the bytes of what was removed."""
        with self._database():
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def forget_refusals(self) -> None:
        """Let every prompt that was refused be asked again."""
        with self._database(), self._transaction():
            self._connection.execute("DELETE FROM refusals")

    def open_runs(self) -> dict[str, str]:
        """Return the accounts of runs that have not ended, by id, oldest first."""
        with self._database():
            return dict(self._connection.execute("SELECT run_id, account FROM runs ORDER BY run_id").fetchall())

    def forget_run(self, run_id: str) -> None:
        """Drop the account of a run that is in the ledger now."""
        with self._database():
            self._connection.execute("DELETE FROM runs WHERE run_id = ?", (run_id,))

    def totals(self) -> tuple[int, int, int]:
        """Return how many answers are stored and their prompt and completion tokens, all runs together."""
        query = "SELECT count(*), total(prompt_tokens), total(completion_tokens) FROM answers"
        with self._database():
            count, prompt_tokens, completion_tokens = self._connection.execute(query).fetchone()
        return int(count), int(prompt_tokens), int(completion_tokens)

    def export_jsonl_gz(self, path: Path) -> int:
        """Write all answers to `path`, atomically, and return how many.

        Equal contents give equal bytes (sorted by key, no times) for the same zlib build.
        """
        query = "SELECT key, text, prompt_tokens, completion_tokens FROM answers ORDER BY key"
        with self._database():
            rows = self._connection.execute(query).fetchall()
        buffer = io.BytesIO()
        with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=9, mtime=0) as packed:
            for row in rows:
                record = dict(zip(_Line.model_fields, row, strict=True))
                packed.write(json.dumps(record, sort_keys=True, ensure_ascii=False).encode() + b"\n")
        write_bytes(path, buffer.getvalue())
        return len(rows)

    def import_jsonl_gz(self, path: Path) -> int:
        """Add the answers of an exported file and return how many were new; answers already here stay as they are, and
        those that were removed with their owner stay away.

        All or nothing: raises CacheError, naming file and line, before anything is written when the file is damaged.
        """
        try:
            answers = list(_read_export(path))
        except (OSError, EOFError, zlib.error) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise CacheError(f"{path}: damaged gzip file: {error}") from error
        with self._database():
            removed = {key for (key,) in self._connection.execute("SELECT key FROM removed")}
        return self._insert("IGNORE", [answer for answer in answers if answer[0] not in removed])

    def _select(self, query: str, keys: Sequence[str], *values: int) -> Iterator[tuple[Any, ...]]:
        """Rows of a query over some ``{marks}`` keys, in as many parts as SQLite needs."""
        with self._database():
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                part = keys[start : start + _KEYS_PER_QUERY]
                yield from self._connection.execute(query.format(marks=",".join("?" * len(part))), (*part, *values))

    @contextmanager
    def _database(self) -> Iterator[None]:
        """The connection, for one thread at a time."""
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            raise CacheError(f"{self._path}: {error}") from error

    def _prepare(self) -> None:
        """Make or check the file. Several processes may do so at once, and SQLite does not wait for the others when it
        changes the journal mode or finds the schema changed under it, whatever the connection's timeout."""
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                return self._prepare_now()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _prepare_now(self) -> None:
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute("PRAGMA secure_delete=ON")
        version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
        if version not in (0, _VERSION):
            raise CacheError(f"{self._path}: written by version {version}, this program reads version {_VERSION}")
        if version == 0:
            self._connection.execute(_SCHEMA)
            self._connection.execute(f"PRAGMA user_version={_VERSION}")
        for schema in _LATER_SCHEMAS:
            self._connection.execute(schema)
        self._owners = OwnerTable(self._connection)

    def _insert(
        self, conflict: str, answers: Iterable[tuple[str, Completion]], account: tuple[str, str] | None = None
    ) -> int:
        now = time.time()
        rows = [(key, answer.text, answer.prompt_tokens, answer.completion_tokens, now) for key, answer in answers]
        statement = f"INSERT OR {conflict} INTO answers VALUES (?, ?, ?, ?, ?)"  # noqa: S608 - one of two constants
        with self._database():
            before = self._connection.total_changes
            with self._transaction():
                self._connection.executemany(statement, rows)
                if account is not None:
                    self._connection.execute("INSERT OR REPLACE INTO runs VALUES (?, ?)", account)
            return self._connection.total_changes - before

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        # IMMEDIATE takes the write lock up front: upgrading a read lock fails when two processes try it
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            # a failed COMMIT (disk full) may have rolled back already
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


class _Line(BaseModel):
    """A line of an exported file. A lone surrogate in it is an error here, not halfway through the transaction."""

    model_config = ConfigDict(extra="forbid", strict=True)

    key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    text: str
    prompt_tokens: Annotated[int, Field(ge=0, lt=2**63)]
    completion_tokens: Annotated[int, Field(ge=0, lt=2**63)]


def _read_export(path: Path) -> Iterator[tuple[str, Completion]]:
    with gzip.open(path, "rb") as lines:
        for number, text in enumerate(lines, start=1):
            try:
                line = _Line.model_validate_json(text)
            except ValidationError as error:
                (first, *_) = error.errors(include_url=False)
                place = ".".join(str(part) for part in first["loc"])
                raise CacheError(f"{path}, line {number}: {place or 'JSON'}: {first['msg']}") from error
            yield line.key, Completion(line.text, line.prompt_tokens, line.completion_tokens)
