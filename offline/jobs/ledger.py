"""The ledger of runs: one JSON line per run in the work folder, oldest first, with what the run asked and wrote.

While a run is at work its line so far lies beside the ledger, and what it asked of the language model beside the
answers (offline/llm/account.py). Whoever holds the folder next and finds either writes the line of a run that was
killed, so that after ``kill -9`` the ledger knows of every answer that was paid and stored.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from offline.data.catalogue import DataError
from offline.data.files import append_line, read_json, write_bytes, write_json
from offline.knowledge.run import ProducerState
from offline.knowledge.vectors import Produced
from offline.llm.account import CACHE_FILE, Account, open_accounts
from offline.llm.cache import CacheError, ResponseCache

LEDGER = "ledger.jsonl"
CURRENT = "run.json"
_FORMER_LEDGER = Path("llm") / LEDGER
"""Accounts of runs, a line each: until 2026-11-29 the language model had a ledger of its own."""
_COUNTED = ("calls", "paid", "failures", "prompt_tokens", "completion_tokens", "cost")
_TAIL_BYTES = 2_000_000


class RunStatus(StrEnum):
    """The end of a run, or that it has none yet."""

    RUNNING = "running"
    DONE = "done"
    PARTIAL = "partial"
    FAILED = "failed"
    LOCKED = "locked"
    INTERRUPTED = "interrupted"
    KILLED = "killed"


@dataclass(frozen=True, slots=True)
class ProducerSummary:
    """The outcome of a producer in a run: how many of its texts are ``absent``, the ``reason`` why it waits, and of how
    many users (in how many versions) and items it has knowledge, if it has any."""

    state: ProducerState
    absent: int = 0
    reason: str = ""
    users: int | None = None
    versions: int | None = None
    items: int | None = None

    @classmethod
    def of(cls, state: ProducerState, produced: Produced | None, absent: int = 0, reason: str = "") -> ProducerSummary:
        """The summary of a producer's result, of this run or an earlier one."""
        users, items = (None, None) if produced is None else (produced.users, produced.items)
        return cls(
            state,
            absent,
            reason,
            None if users is None else int((users.start[1:] > users.start[:-1]).sum()),
            None if users is None else len(users.vectors),
            None if items is None else int(items.known.sum()),
        )

    def document(self) -> dict[str, Any]:
        """The summary as JSON, without what there is not."""
        return {name: value for name, value in asdict(self).items() if value is not None and value != ""}


@dataclass(slots=True, kw_only=True)
class RunRecord:
    """A line of the ledger. ``run`` is the run's id, ``job`` the command, ``config`` the configuration's name.

    ``reasons`` say what is left for the next run, or what went wrong. ``stages``: seconds by stage. ``llm``: what the
    run asked of the language model; None if nothing. ``arithmetic``: of models in the run's own process, and why; empty
    if no producer ran. ``asked_again`` and ``bad_answers``: first answers, and second ones, by what was wrong with
    them. ``faithfulness``: by kind of text, well-formed new answers and those that name what their question does not
    (offline/knowledge/faithfulness.py). ``records``: written, unchanged and bytes by kind of record. ``release`` is the
    live one after the run, ``refused`` the one that the gate keeps off ("": none; None of a run that publishes no
    model). ``totals`` sums up all runs of the ledger.
    """

    run: str
    job: str
    config: str = ""
    status: RunStatus = RunStatus.RUNNING
    exit_code: int | None = None
    reasons: list[str] = field(default_factory=list)
    started_at: str = ""
    finished_at: str = ""
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    llm: Account | None = None
    arithmetic: str = ""
    asked_again: dict[str, int] = field(default_factory=dict)
    bad_answers: dict[str, int] = field(default_factory=dict)
    faithfulness: dict[str, dict[str, int]] = field(default_factory=dict)
    producers: dict[str, ProducerSummary] = field(default_factory=dict)
    records: dict[str, dict[str, int]] = field(default_factory=dict)
    bytes_written: int = 0
    release: str | None = None
    refused: str | None = None
    totals: dict[str, float] = field(default_factory=dict)
    pid: int = 0

    def document(self) -> dict[str, Any]:
        return {name.name: getattr(self, name.name) for name in fields(self)} | {
            "llm": {} if self.llm is None else self.llm.document(),
            "producers": {name: producer.document() for name, producer in self.producers.items()},
        }

    @classmethod
    def parse(cls, document: Any) -> RunRecord:
        """Read a line of any version: what it lacks takes its default, what is unknown is left out. ValueError for a
        document that is no run."""
        if not isinstance(document, dict) or not {"run", "job", "status"} <= document.keys():
            raise ValueError("not a run")
        known = _known(cls, document)
        producers = {
            name: ProducerSummary(**{**_known(ProducerSummary, producer), "state": ProducerState(producer["state"])})
            for name, producer in known.get("producers", {}).items()
        }
        llm = Account.parse(document["llm"]) if document.get("llm") else None
        return cls(**{**known, "status": RunStatus(document["status"]), "producers": producers, "llm": llm})


def _known(record: type[RunRecord] | type[ProducerSummary], document: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a document that a record of this version has."""
    names = {name.name for name in fields(record)}
    return {name: value for name, value in document.items() if name in names}


class RunLedger:
    """The ledger in one work folder. Only the folder's holder may write."""

    def __init__(self, workdir: Path) -> None:
        self._folder = workdir
        self._path = workdir / LEDGER

    def runs(self) -> list[RunRecord]:
        """Runs, oldest first, as far as the last two megabytes go. Damaged lines are passed over."""
        runs = []
        for document in _documents(self._path):
            with suppress(ValueError, TypeError, AttributeError, KeyError):
                runs.append(RunRecord.parse(document))
        return runs

    def accounts(self) -> list[Account]:
        """Accounts of what runs asked of language models, oldest first; of a run the last word counts."""
        accounts: dict[str, Account] = {}
        for number, document in enumerate(_documents(self._folder / _FORMER_LEDGER)):
            with suppress(ValueError, TypeError):
                account = Account.parse(document)
                accounts[account.run_id or f"line {number}"] = account
        for run in self.runs():
            if run.llm is not None:
                accounts[run.llm.run_id] = run.llm
        return list(accounts.values())

    def append(self, record: RunRecord) -> None:
        """Add one line, with totals that go on from the last one's."""
        earlier: Mapping[str, float] = next((run.totals for run in reversed(self.runs()) if run.totals), {})
        asked = {} if record.llm is None else record.llm.document()
        spent = {"runs": 1, "bytes_written": record.bytes_written, **{name: asked.get(name, 0) for name in _COUNTED}}
        record.totals = {name: round(earlier.get(name, 0) + more, 6) for name, more in spent.items()}
        append_line(self._path, json.dumps(record.document(), ensure_ascii=False))

    def failures(self) -> list[dict[str, Any]]:
        """Lines with the words of errors, of all the file; an earlier version quoted data there."""
        return [document for line in self._lines() if (document := _with_words(line)) is not None]

    def cut_failures(self) -> None:
        """Leave of the words of errors their kinds alone."""
        lines = self._lines()
        cut = [line if (document := _with_words(line)) is None else _cut(document) for line in lines]
        if cut != lines:
            write_bytes(self._path, b"".join(line + b"\n" for line in cut if line))

    def _lines(self) -> list[bytes]:
        return self._path.read_bytes().splitlines() if self._path.is_file() else []

    def keep(self, record: RunRecord) -> None:
        """Keep the line so far, for whoever comes next if this run is killed."""
        write_json(self._folder / CURRENT, record.document())

    def end(self, record: RunRecord) -> None:
        self.append(record)
        (self._folder / CURRENT).unlink(missing_ok=True)

    def lost(self) -> RunRecord | None:
        """The line of a run that left no line, with what it is known to have asked: it was killed, or it is at work."""
        try:
            record = RunRecord.parse(read_json(self._folder / CURRENT))
        except (DataError, ValueError, TypeError, AttributeError, KeyError):
            return None  # absent, or damaged, which must not keep every later run from working
        record.status, record.exit_code = RunStatus.KILLED, None
        accounts = self._open_accounts()
        if record.llm is not None:
            record.llm = accounts.get(record.llm.run_id, record.llm)
        elif accounts:  # it had just begun to ask: the others' accounts were settled when it began
            record.llm = list(accounts.values())[-1]
        return record

    def _open_accounts(self) -> dict[str, Account]:
        """Accounts of runs that have not ended; none where answers cannot be read: whoever asks will say so."""
        try:
            return open_accounts(self._folder / "llm")
        except CacheError:
            return {}

    def settle(self) -> None:
        """Write the lines of runs that were killed, if there are any."""
        lost, accounts = self.lost(), self._open_accounts()
        if lost is None and not accounts:
            return  # a damaged line of a killed run is replaced by that of the next
        settled = {run.run for run in self.runs()} | {account.run_id for account in self.accounts()}
        if lost is not None and lost.run not in settled:
            self.append(lost)
            settled |= set() if lost.llm is None else {lost.llm.run_id}
        (self._folder / CURRENT).unlink(missing_ok=True)
        for run_id, account in accounts.items():
            if run_id not in settled:  # it says what was paid, and nothing says for what
                record = RunRecord(run=run_id, job="unknown", status=RunStatus.KILLED, llm=account)
                record.started_at = record.finished_at = iso_time(time.time())
                self.append(record)
        if accounts:
            with ResponseCache(self._folder / "llm" / CACHE_FILE) as cache:
                for run_id in accounts:
                    cache.forget_run(run_id)


def iso_time(seconds: float) -> str:
    """ISO 8601 in UTC, to the second, of seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


_ENDED_BY_ERRORS = (RunStatus.FAILED, RunStatus.INTERRUPTED, RunStatus.KILLED)


def _with_words(line: bytes) -> dict[str, Any] | None:
    """The document of a line of a run that ended by an error or left something out, if more than the error's kind is in
    it; of half a line, after a power cut, the text is the reason."""
    try:
        document = json.loads(line)
    except ValueError:
        return {"torn": True, "reasons": [line.decode(errors="replace")]}
    if isinstance(document, dict) and document.get("status") in (*_ENDED_BY_ERRORS, RunStatus.PARTIAL):
        reasons = document.get("reasons")
        if isinstance(reasons, list) and any(":" in str(reason) for reason in reasons):
            return document
    return None


def _cut(document: dict[str, Any]) -> bytes:
    if "torn" in document:
        return b""
    kinds = [str(reason).partition(":")[0] for reason in document["reasons"]]
    return json.dumps(document | {"reasons": kinds}, ensure_ascii=False).encode()


def _documents(path: Path) -> list[Any]:
    """The JSON documents in the last lines of a file; none without a file."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().splitlines()
    documents = []
    for line in lines:
        with suppress(ValueError):  # half a line, after a power cut or at the start of the tail
            documents.append(json.loads(line))
    return documents
