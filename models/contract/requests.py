"""What service and jobs tell each other beside a release: requests that the next job carries out, and reports.

A request is written by the service, and its state by whoever carries it out. A report is published by a job and read by
the service. Both lie in Redis, one value each, beside a sorted set of their names by time; both end.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field
from pydantic_core import to_json

from models.contract.events import Identifier
from models.contract.schema import FrozenConfig

OPEN_SECONDS, DONE_SECONDS = 400 * 86_400, 90 * 86_400
"""Lives of a request: since it was asked for while it is open, and since it was done or failed."""

MOST_REQUESTS = 100_000
"""Requests that are listed at most. While so many are, none but those to forget a user are taken."""

REPORT_SECONDS, REPORT_BYTES, MOST_REPORTS = 90 * 86_400, 1_000_000, 1_000
"""Life and size of a report, and how many there are at most: the oldest go first."""

EXPORT_SECONDS = 30 * 86_400
"""Life of an export: a month to answer whoever asks for their data."""

TEXTS_SECONDS = 37 * 86_400
"""Life of the texts of an owner, as long as that of knowledge."""


Records = dict[str, list[Any]]
"""What there is of a user, readable, by the name of the store: any JSON."""


class RequestKind(StrEnum):
    """What the next job is to do.

    forget           remove a user from all that the jobs store
    close_partition  close the open LIBER partition of a user, so that a language model tells of it
    dry_run          tell what a run would ask and cost, as a report
    export           tell all that the jobs store of a user, for the export of the service
    """

    FORGET = "forget"
    CLOSE_PARTITION = "close_partition"
    DRY_RUN = "dry_run"
    EXPORT = "export"


class RequestState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class JobRequest(BaseModel):
    """A request, which for a user who is forgotten is the receipt.

    user_id     whom it is about; None for a dry run
    asked_ms    unix ms, as ``changed_ms``, which is that of its state
    asked_by    the API key's name and id; "" where none is needed
    removed     records that were removed, by the store they were in
    remaining   what the next job removes, or what no job can, in words for people
    note        why it failed, or where its report is
    """

    model_config = FrozenConfig

    v: Literal[1] = 1
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    kind: RequestKind
    user_id: Identifier | None = None
    asked_ms: int
    asked_by: str = ""
    state: RequestState = RequestState.WAITING
    changed_ms: int
    removed: Mapping[str, int] = {}
    remaining: tuple[str, ...] = ()
    note: str = ""

    @classmethod
    def new(cls, kind: RequestKind, user_id: str | None = None, asked_by: str = "") -> JobRequest:
        now = time.time_ns() // 1_000_000
        return cls(
            id=secrets.token_hex(16), kind=kind, user_id=user_id, asked_ms=now, changed_ms=now, asked_by=asked_by
        )

    def changed(self, state: RequestState, **others: Any) -> JobRequest:
        """The request in another state, with other fields that go with it."""
        return self.model_copy(update={"state": state, "changed_ms": time.time_ns() // 1_000_000, **others})

    @property
    def is_open(self) -> bool:
        return self.state in (RequestState.WAITING, RequestState.RUNNING)

    @property
    def ends_at(self) -> int:
        """Unix s. One of a time that cannot be, because it is damaged, ends at once, or as if it were of now."""
        since, life = (self.asked_ms, OPEN_SECONDS) if self.is_open else (self.changed_ms, DONE_SECONDS)
        return max(1, min(since // 1000, int(time.time())) + life)


class ReportKind(StrEnum):
    """run: a job's line of the ledger, with what it cost; dry_run: what a run would cost; ab: an experiment."""

    RUN = "run"
    DRY_RUN = "dry_run"
    AB = "ab"


class Report(BaseModel):
    """``name`` is ``KIND-...``; ``body`` is any JSON, of at most REPORT_BYTES when packed."""

    model_config = FrozenConfig

    v: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
    kind: ReportKind
    made_ms: int
    body: Mapping[str, Any]

    def pack(self) -> bytes:
        """ValueError if it is too large."""
        packed = self.model_dump_json().encode()
        if len(packed) > REPORT_BYTES:
            raise ValueError(f"the report {self.name} has {len(packed):,} bytes, of {REPORT_BYTES:,} at most")
        return packed


class OwnerText(BaseModel):
    """A text about a user or an item: by whom it was written, of what kind, and from which prompt."""

    model_config = FrozenConfig

    producer: str
    kind: str
    text: str
    prompt: str = ""
    model: str = ""


class OwnerTexts(BaseModel):
    """All texts about one user or item."""

    model_config = FrozenConfig

    v: Literal[1] = 1
    owner: str
    made_ms: int
    texts: tuple[OwnerText, ...]


class UserExport(BaseModel):
    """All that the work folder of the jobs has of a user, as of ``made_ms`` (unix).

    stored      records by store; vectors by their shapes
    aggregates  what was made of everybody's interactions, with the user's among them, and holds no record of anybody
    notes       what could not be told
    left_out    numbers of the records, by store, for which a value in Redis has no room
    """

    model_config = FrozenConfig

    v: Literal[1] = 1
    owner: Identifier
    made_ms: int
    configuration: str
    stored: Mapping[str, list[Any]]
    aggregates: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    left_out: Mapping[str, int] = {}

    def pack(self) -> bytes:
        """At most REPORT_BYTES. Where there is more, a record for which alone there is no room is left out, and then,
        again and again, the older half of whatever store has most bytes. ValueError if there is no room for what is no
        record."""
        nothing: Records = {name: [] for name in self.stored}
        counts = dict.fromkeys(self.stored, max(map(len, self.stored.values()), default=0))
        empty = len(self.model_copy(update={"stored": nothing, "left_out": counts}).model_dump_json().encode())
        if (room := REPORT_BYTES - empty) < 0:
            raise ValueError(f"an export without records has {empty:,} bytes, of {REPORT_BYTES:,} at most")
        sizes = {name: [len(to_json(record)) + 1 for record in records] for name, records in self.stored.items()}
        chosen = {name: [at for at, size in enumerate(each) if size <= room] for name, each in sizes.items()}
        total = {name: sum(sizes[name][at] for at in each) for name, each in chosen.items()}
        while sum(total.values()) > room:
            largest = max(total, key=total.__getitem__)
            chosen[largest] = chosen[largest][(len(chosen[largest]) + 1) // 2 :]
            total[largest] = sum(sizes[largest][at] for at in chosen[largest])
        stored = {name: [self.stored[name][at] for at in each] for name, each in chosen.items()}
        left_out = {name: count for name, each in stored.items() if (count := len(self.stored[name]) - len(each))}
        return self.model_copy(update={"stored": stored, "left_out": left_out}).model_dump_json().encode()
