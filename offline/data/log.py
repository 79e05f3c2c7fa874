"""The interaction log: every interaction the jobs know, in order of arrival, append-only.

The first load sorts by (time, user, item), as the published protocols do; what comes later, from the service's stream
or from files that grew, is appended, whatever its own time says. That is also the order of the live histories in Redis.
Because nothing is ever inserted before an existing row, a closed LIBER partition never changes. An interaction equal in
user, item, time and value to one that is in the log already is a repetition and is dropped, so that whatever is
delivered twice changes nothing (docs/decisions/0001).

Data may bring their own parts for training, validation and test. The first load then comes part by part, each sorted as
above, so that "earlier in the log" never shows a part what a later one holds. Whatever arrives later is in no part.

A log may also carry sampled rows: drawn negatives of implicit feedback (offline/data/arrival.py). They are training
samples and nothing else: nobody did them, so they are in no history, partition, statistic, graph or record.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_128

from models.contract.events import Interaction

_EVENT = np.dtype([("user", np.int32), ("item", np.int32), ("value", np.float32), ("time_ms", np.int64)])
_FIELDS = ("user", "item", "value", "time_ms")
COLUMNS = (*_FIELDS, "sampled")
"""Arrays of a log, in the order of its fields."""

MANIFEST = "log.json"

_PLACEHOLDER = "\x7f"


def placeholder(number: int) -> str:
    """The name of a user who was forgotten, whose number nobody else gets: no door lets such an id in."""
    return f"{_PLACEHOLDER}{number}"


def is_placeholder(name: str) -> bool:
    return name.startswith(_PLACEHOLDER)


@dataclass(frozen=True, slots=True)
class InteractionLog:
    """Columns of equal length n, and the ids that ``user`` and ``item`` index.

    ``sampled`` [n] marks rows that were drawn, not done. ``stream_mark`` is the last stream entry that was taken over,
    and ``stream`` the installation that it is of ("": not known); they lie in the file that says which rows count, so a
    crash cannot lose or repeat an entry. ``part_ends`` are the rows at which the training, the validation and the test
    part end, of data that bring their parts. ``streamed`` are the rows [first, end) that came from the service, rising;
    None in a log of an earlier version, which did not note them. ``settings`` are those of the data that decide which
    rows of the files there are (log_settings.py); None if nobody noted them. ``closings`` are (user, row): what that
    user did before that row is in closed LIBER partitions, because somebody asked for it.
    """

    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    user: npt.NDArray[np.int32]
    item: npt.NDArray[np.int32]
    value: npt.NDArray[np.float32]
    time_ms: npt.NDArray[np.int64]
    sampled: npt.NDArray[np.bool_]
    stream_mark: str = "0-0"
    part_ends: tuple[int, int, int] | None = None
    stream: str = ""
    streamed: tuple[tuple[int, int], ...] | None = ()
    settings: Mapping[str, Any] | None = None
    closings: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.user)

    @property
    def observed(self) -> npt.NDArray[np.int64]:
        """Rows of what users really did, in order."""
        return np.flatnonzero(~self.sampled)

    @classmethod
    def of(
        cls,
        user_ids: tuple[str, ...],
        item_ids: tuple[str, ...],
        columns: Mapping[str, npt.NDArray[Any]],
        stream_mark: str = "0-0",
        part_ends: tuple[int, int, int] | None = None,
    ) -> InteractionLog:
        """A log of the arrays that ``COLUMNS`` names."""
        user, item, value, time_ms, sampled = (columns[name] for name in COLUMNS)
        return cls(user_ids, item_ids, user, item, value, time_ms, sampled, stream_mark, part_ends)

    @classmethod
    def empty(cls) -> InteractionLog:
        columns = np.zeros(0, [*_EVENT.descr, ("sampled", np.bool_)])
        return cls.of((), (), {name: columns[name] for name in COLUMNS})

    @classmethod
    def sorted_by_time(
        cls, rows: Iterable[tuple[str, str, float, int]], user_order: Sequence[str], item_order: Sequence[str]
    ) -> InteractionLog:
        """A log of (user, item, value, time_ms) rows; ids not in the given orders follow in order of appearance."""
        return cls.empty().with_rows(rows, user_order, item_order)[0]

    def with_rows(
        self,
        rows: Iterable[tuple[str, str, float, int]],
        user_order: Sequence[str],
        item_order: Sequence[str],
        parts: npt.NDArray[np.int8] | None = None,
    ) -> tuple[InteractionLog, int]:
        """This log with those rows of a data set that are new to it, and their number.

        New rows are appended in the order (time, user, item), ids in the given orders first; so the same rows in
        another order make the same log. ``parts`` of the rows (0 train, 1 validation, 2 test) come first in that order,
        and become those of a log that was empty.
        """
        users, items = _numbered(self.user_ids, user_order), _numbered(self.item_ids, item_order)
        table = _table(rows, users, items)
        part = np.zeros(len(table), np.int8) if parts is None else parts
        order = np.lexsort([*(table[name] for name in ("value", "item", "user", "time_ms")), part])
        log, fresh = self._appended(users, items, table[order])
        if parts is not None and not len(self):
            log = replace(log, part_ends=_part_ends(part[order][fresh]))
        return log, int(fresh.sum())

    def leaving_last_out(self) -> InteractionLog:
        """This log in parts: the last interaction of each user is the test part, the one before it the validation part,
        and all others, also those of users with fewer than three, the training part."""
        index = self.by_user()
        count = np.diff(index.start)[self.user]
        part = np.where(count < 3, 0, np.maximum(0, 3 - count + index.position)).astype(np.int8)
        order = np.argsort(part, kind="stable")
        columns: dict[str, Any] = {name: getattr(self, name)[order] for name in COLUMNS}
        return replace(self, **columns, part_ends=_part_ends(part[order]))

    def extended(self, entries: Sequence[Interaction], stream_mark: str) -> tuple[InteractionLog, int]:
        """This log with streamed interactions appended in stream order, and the number of new ones."""
        rows = ((event.user_id, event.item_id, event.value, event.time_ms) for event in entries)
        log, added = self.with_arrived(rows)
        return replace(log, stream_mark=stream_mark), added

    def with_arrived(self, rows: Iterable[tuple[str, str, float, int]]) -> tuple[InteractionLog, int]:
        """This log with those (user, item, value, time_ms) rows appended that are new to it, in the order given; and
        their number."""
        users, items = _numbered(self.user_ids), _numbered(self.item_ids)
        table = _table(rows, users, items)  # which numbers the ids that are new
        log, fresh = self._appended(users, items, table)
        return log, int(fresh.sum())

    def noting_streamed(self, first: int) -> InteractionLog:
        """This log with the note that its rows from ``first`` on came from the service."""
        if self.streamed is None or first == len(self):
            return self
        *earlier, (begin, end) = self.streamed or ((first, first),)
        last = [(begin, len(self))] if end == first else [(begin, end), (first, len(self))]
        return replace(self, streamed=(*earlier, *last))

    def closing(self, *users: int) -> InteractionLog:
        """This log with the open partitions of users closed."""
        return replace(self, closings=(*self.closings, *((user, len(self)) for user in users)))

    def digest(self, rows: int) -> str:
        """Changes whenever one of the first ``rows`` rows does: who did what, when, in which part. What is appended
        later leaves it as it is."""
        whole = xxh3_128(repr(self.part_ends).encode())
        for name in COLUMNS:
            whole.update(np.ascontiguousarray(getattr(self, name)[:rows]).data)
        for ids, column in ((self.user_ids, self.user), (self.item_ids, self.item)):
            named = ids[: int(column[:rows].max(initial=-1)) + 1]
            whole.update("\0".join(named).encode("utf-8", "surrogatepass"))
        return whole.hexdigest()

    def _appended(
        self, users: dict[str, int], items: dict[str, int], table: npt.NDArray[np.void]
    ) -> tuple[InteractionLog, npt.NDArray[np.bool_]]:
        """This log and the rows of ``table`` that repeat neither it nor each other, in the table's order; and which
        rows those are."""
        of_same_users = np.isin(self.user, table["user"]) & ~self.sampled
        former = np.zeros(int(of_same_users.sum()), _EVENT)
        for name in _FIELDS:
            former[name] = getattr(self, name)[of_same_users]
        is_fresh = _firsts(np.concatenate([former, table]))[len(former) :]
        fresh = table[is_fresh]
        columns: dict[str, Any] = {name: np.concatenate([getattr(self, name), fresh[name]]) for name in _FIELDS}
        columns["sampled"] = np.concatenate([self.sampled, np.zeros(len(fresh), np.bool_)])
        return replace(self, user_ids=tuple(users), item_ids=tuple(items), **columns), is_fresh

    def with_sampled(self, before: npt.NDArray[np.int64], item: npt.NDArray[np.int32]) -> InteractionLog:
        """This log with drawn negatives of value 0: ``item[n]`` at the user and time of row ``before[n]``, and right
        before that row, so that both see the same past."""
        drawn: dict[str, Any] = {name: getattr(self, name)[before] for name in ("user", "time_ms")}
        drawn |= {"item": item, "value": np.float32(0), "sampled": True}
        columns: dict[str, Any] = {name: np.insert(getattr(self, name), before, drawn[name]) for name in COLUMNS}
        ends = self.part_ends
        if ends is not None:
            train, validation, test = (end + int((before < end).sum()) for end in ends)
            ends = (train, validation, test)
        return replace(self, **columns, part_ends=ends)

    def without(self, rows: npt.NDArray[np.bool_], users: Collection[int]) -> InteractionLog:
        """This log without the rows of the mask ``rows`` [n], and without the names of ``users``, who have no others.
        All users and items keep their numbers; later rows move up, ``RowShift`` says to where."""
        shift = RowShift.of(rows)
        names = tuple(placeholder(at) if at in users else name for at, name in enumerate(self.user_ids))
        columns: dict[str, Any] = {name: getattr(self, name)[~rows] for name in COLUMNS}
        ends, streamed = self.part_ends, self.streamed
        if ends is not None:
            train, validation, test = map(shift, ends)
            ends = (train, validation, test)
        if streamed is not None:
            moved = ((shift(first), shift(end)) for first, end in streamed)
            streamed = tuple((first, end) for first, end in moved if first < end)
        closings = tuple((user, shift(row)) for user, row in self.closings if user not in users)
        return replace(self, user_ids=names, **columns, part_ends=ends, streamed=streamed, closings=closings)

    def by_user(self) -> UserIndex:
        """The observed rows by user."""
        order = np.argsort(self.user, kind="stable")
        observed = ~self.sampled[order]
        counts = np.bincount(self.user[~self.sampled], minlength=len(self.user_ids))
        start = np.concatenate([[0], np.cumsum(counts)])
        position = np.empty(len(self), np.int64)
        position[order] = np.cumsum(observed) - observed - start[self.user[order]]
        return UserIndex(order[observed], start, position)

    def since(self, *, row: int | None = None, time_ms: int | None = None) -> Touched:
        """Users and items with an observed interaction at log row ``row`` or later, that is, which arrived since then;
        or with one of time ``time_ms`` or later."""
        if row is not None and time_ms is None:
            late = np.arange(len(self)) >= row
        elif time_ms is not None and row is None:
            late = self.time_ms >= time_ms
        else:
            raise ValueError("say either row or time_ms")
        mask = late & ~self.sampled
        return Touched(np.unique(self.user[mask]).astype(np.int64), np.unique(self.item[mask]).astype(np.int64))

    def save(self, folder: Path) -> None:
        """Replace the log that is saved in ``folder``, in the form of offline/data/log_files.py."""
        from offline.data.log_files import save  # polars only where files are read or written

        save(self, folder)

    @classmethod
    def load(cls, folder: Path) -> InteractionLog:
        """Inverse of ``save``. DataError if the log is absent or damaged."""
        from offline.data.log_files import load

        return load(folder)

    @staticmethod
    def is_saved(folder: Path) -> bool:
        """Whether there is a log, in this form or as earlier versions saved it."""
        return (folder / MANIFEST).is_file() or former_file(folder).is_file()


def former_file(folder: Path) -> Path:
    """The file in which earlier versions saved the log that now lies in ``folder``: numpy arrays."""
    return folder.with_suffix(".npz")


@dataclass(frozen=True, slots=True)
class RowShift:
    """Where rows of a log are once some were removed. ``removed`` [k]: numbers of those, rising."""

    removed: npt.NDArray[np.int64]

    @classmethod
    def of(cls, rows: npt.NDArray[np.bool_]) -> RowShift:
        """Of the mask [n] of the rows that are removed."""
        return cls(np.flatnonzero(rows))

    def __call__(self, row: int) -> int:
        """The number of a row, or that of the one that follows if it is removed itself."""
        return int(row - np.searchsorted(self.removed, row))

    def each(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The same of many."""
        return np.asarray(rows - np.searchsorted(self.removed, rows), np.int64)


@dataclass(frozen=True, slots=True)
class Touched:
    """Indices of users and of items, rising."""

    users: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class UserIndex:
    """Observed log rows grouped by user. ``rows[start[u]:start[u + 1]]`` are user u's rows in log order.

    ``position[r]`` is how many earlier observed rows the user of row r has, for every log row: a sampled row has the
    same past as the row that it was drawn for.
    """

    rows: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]

    def of_user(self, user: int) -> npt.NDArray[np.int64]:
        """Observed log rows of one user, in order."""
        return self.rows[self.start[user] : self.start[user + 1]]


def _table(
    rows: Iterable[tuple[str, str, float, int]], users: dict[str, int], items: dict[str, int]
) -> npt.NDArray[np.void]:
    """Rows by numbers of users and items; new ids are added to the numbers."""
    numbered = (
        (users.setdefault(user, len(users)), items.setdefault(item, len(items)), value, time_ms)
        for user, item, value, time_ms in rows
    )
    return np.fromiter(numbered, _EVENT)


def _firsts(table: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """Mask of the rows that are the first of their kind."""
    order = np.lexsort([table[name] for name in _FIELDS])  # stable, so of equal rows the first comes first
    ordered = table[order]
    firsts = np.ones(len(table), np.bool_)
    firsts[order[1:]] = ordered[1:] != ordered[:-1]
    return firsts


def _part_ends(parts: npt.NDArray[np.int8]) -> tuple[int, int, int]:
    """Where the parts 0, 1 and 2 of rising ``parts`` end."""
    train, validation, test = np.searchsorted(parts, np.arange(3, dtype=np.int8), side="right").tolist()
    return train, validation, test


def _numbered(known: Sequence[str], order: Sequence[str] = ()) -> dict[str, int]:
    """Numbers of ids: known ones keep theirs, the others follow in the given order."""
    numbers = {name: number for number, name in enumerate(known)}
    for name in order:
        numbers.setdefault(name, len(numbers))
    return numbers
